import java.math.BigDecimal;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Types;
import java.time.OffsetDateTime;
import java.util.ArrayList;
import java.util.List;
import java.util.Properties;
import java.util.UUID;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;

/**
 * A prepaid account, from its first purchase to zero, with JDBC.
 *
 * <p>PGPORT, PGUSER, PGPASSWORD and PGDATABASE say where on this machine: the driver knows neither these variables nor unix sockets.
 * Any surprise ends the program with a status other than 0.
 */
public class Credits {
    static final String PURCHASE = """
        SELECT amount FROM credits.create_transaction(
            user_id => ?, transaction_type => 'purchase', amount => ?, source_id => ?)""";
    static final String USAGE = """
        INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, fusillade_batch_id)
        VALUES (?, 'usage', ?, ?, ?) ON CONFLICT (source_id) DO NOTHING""";

    public static void main(String[] args) throws SQLException {
        // New ids, so that this can be run again and again.
        UUID account = UUID.randomUUID(), batch = UUID.randomUUID();

        // Two connections: a listener stays connected, while the others may come from a pool.
        try (Connection db = connect(); Connection listener = connect()) {
            listener.createStatement().execute("LISTEN credits_balance_crossed");

            // A purchase. The source_id makes it safe to try again: the same one is recorded once.
            for (int attempt = 1; attempt <= 2; attempt++) purchase(db, account, "10");

            // With another amount it is refused: this is no retry.
            try {
                purchase(db, account, "11");
                throw new AssertionError("recorded twice");
            } catch (SQLException e) {
                expect("refused with", e.getSQLState(), "23505");
            }

            // Many rows in one transaction. The first three requests are a batch. A retry adds nothing.
            db.setAutoCommit(false);
            try (PreparedStatement usage = db.prepareStatement(USAGE)) {
                List<String> amounts = List.of("0.000123", "0.000123", "0.000123", "0.25");
                for (int n = 0; n < amounts.size(); n++) {
                    addUsage(usage, account, new BigDecimal(amounts.get(n)), "request-" + n + "-" + account, n < 3 ? batch : null);
                }
                usage.executeBatch();
            }
            db.commit();
            db.setAutoCommit(true);
            BigDecimal left = balance(db, account);
            expect("balance", left, new BigDecimal("9.749631"));

            // The history, newest first, with the batch as one item. The next page: before_seq => the last seq of this one.
            List<String> page = new ArrayList<>();
            try (PreparedStatement list = db.prepareStatement(
                    "SELECT * FROM credits.list_transactions_with_batches(user_id => ?, \"limit\" => ?)")) {
                list.setObject(1, account);
                list.setLong(2, 10);
                try (ResultSet items = list.executeQuery()) {
                    while (items.next()) {
                        page.add(items.getString("transaction_type") + " " + items.getBigDecimal("amount")
                            + " (" + items.getInt("batch_count") + ")");
                        // Ids are UUIDs, and dates know their time zone.
                        items.getObject("id", UUID.class);
                        items.getObject("created_at", OffsetDateTime.class);
                    }
                }
            }
            expect("page", page, List.of("usage 0.25 (1)", "usage 0.000369 (3)", "purchase 10 (1)"));

            // Spending the rest takes the balance to zero, which the commit announces.
            try (PreparedStatement usage = db.prepareStatement(USAGE)) {
                addUsage(usage, account, left, "request-last-" + account, null);
                usage.executeBatch();
            }
            expect("crossings", crossings(listener, account, 2), List.of("up", "down"));
            // Equal as numbers: equals() would compare the digits after the point, too.
            expect("spent", balance(db, account).compareTo(BigDecimal.ZERO), 0);
        }
    }

    static Connection connect() throws SQLException {
        Properties properties = new Properties();
        properties.setProperty("user", System.getenv("PGUSER"));
        properties.setProperty("password", System.getenv("PGPASSWORD"));
        return DriverManager.getConnection(
            "jdbc:postgresql://127.0.0.1:" + System.getenv("PGPORT") + "/" + System.getenv("PGDATABASE"), properties);
    }

    static void purchase(Connection db, UUID account, String amount) throws SQLException {
        try (PreparedStatement purchase = db.prepareStatement(PURCHASE)) {
            purchase.setObject(1, account);
            purchase.setBigDecimal(2, new BigDecimal(amount));
            purchase.setString(3, "invoice-" + account);
            purchase.executeQuery();
        }
    }

    static void addUsage(PreparedStatement usage, UUID account, BigDecimal amount, String sourceId, UUID batch) throws SQLException {
        usage.setObject(1, account);
        usage.setBigDecimal(2, amount);
        usage.setString(3, sourceId);
        usage.setObject(4, batch, Types.OTHER);
        usage.addBatch();
    }

    static BigDecimal balance(Connection db, UUID account) throws SQLException {
        try (PreparedStatement balance = db.prepareStatement("SELECT credits.get_user_balance(?)")) {
            balance.setObject(1, account);
            try (ResultSet row = balance.executeQuery()) {
                row.next();
                return row.getBigDecimal(1);
            }
        }
    }

    /** The next directions that this account crosses zero in; the channel carries those of all accounts. */
    static List<String> crossings(Connection listener, UUID account, int count) throws SQLException {
        List<String> directions = new ArrayList<>();
        long deadline = System.currentTimeMillis() + 10_000;
        while (directions.size() < count && System.currentTimeMillis() < deadline) {
            // Waits for up to a second. Without a time, it would only look at what has come already.
            for (PGNotification notification : listener.unwrap(PGConnection.class).getNotifications(1000)) {
                String payload = notification.getParameter();
                if (payload.contains(account.toString())) directions.add(payload.contains("\"direction\":\"up\"") ? "up" : "down");
            }
        }
        return directions;
    }

    static void expect(String what, Object seen, Object expected) {
        if (!expected.equals(seen)) throw new AssertionError(what + ": expected " + expected + ", saw " + seen);
        System.out.println(what + ": " + seen);
    }
}
