//! What automatic top-ups have bought this month.

use credits_ledger_tests::{Database, Decimal, Session, Uuid, dec, user};

use crate::calls::Calls;

/// A transaction dated as an SQL expression says.
fn record(session: &mut Session, user: Uuid, kind: &str, amount: Decimal, source_id: &str, created_at: &str) {
    session
        .execute(
            &format!(
                "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, created_at)
                 VALUES ($1, $2, $3, $4, {created_at})"
            ),
            &[&user, &kind, &amount, &source_id],
        )
        .expect("insert");
}

#[test]
fn the_prefix_is_literal_and_any_type_counts() {
    let db = Database::create();
    let mut session = db.connect();
    for (kind, amount, source_id) in [
        ("purchase", dec!(1), "auto_topup_"),
        ("usage", dec!(2), "auto_topup_2"),
        ("admin_removal", dec!(4.000000000000001), "auto_topup_x"),
        ("purchase", dec!(100), "autoXtopupX3"),
        ("purchase", dec!(100), "auto_topup"),
        ("purchase", dec!(100), "AUTO_TOPUP_4"),
        ("purchase", dec!(100), " auto_topup_5"),
        ("purchase", dec!(100), "manual auto_topup_6"),
    ] {
        record(&mut session, user(1), kind, amount, source_id, "now()");
    }
    assert_eq!(session.topups(user(1)), dec!(7.000000000000001), "summed as positive amounts, not rounded");
}

#[test]
fn the_month_is_the_calendars_in_utc() {
    let db = Database::create();
    let mut session = db.connect();
    let month = "date_trunc('month', now() AT TIME ZONE 'UTC')";
    for (amount, source_id, created_at) in [
        (dec!(1), "auto_topup_first", format!("{month} AT TIME ZONE 'UTC'")),
        (
            dec!(2),
            "auto_topup_last",
            format!("({month} + interval '1 month' - interval '1 microsecond') AT TIME ZONE 'UTC'"),
        ),
        (dec!(100), "auto_topup_before", format!("({month} - interval '1 microsecond') AT TIME ZONE 'UTC'")),
        (dec!(100), "auto_topup_after", format!("({month} + interval '1 month') AT TIME ZONE 'UTC'")),
    ] {
        record(&mut session, user(1), "purchase", amount, source_id, &created_at);
    }
    for zone in ["UTC", "Pacific/Kiritimati", "Pacific/Niue"] {
        session.run(&format!("SET TimeZone = '{zone}'"));
        assert_eq!(session.topups(user(1)), dec!(3), "{zone}");
        assert_eq!(session.topups_bulk(&[user(1)]), [(user(1), dec!(3))], "{zone}");
    }
}

#[test]
fn the_bulk_has_each_user_with_any_once() {
    let db = Database::create();
    let mut session = db.connect();
    record(&mut session, user(1), "purchase", dec!(10), "auto_topup_1", "now()");
    record(&mut session, user(2), "purchase", dec!(20), "manual", "now()");
    record(&mut session, user(3), "purchase", dec!(30), "auto_topup_3", "now()");
    record(&mut session, user(4), "purchase", dec!(40), "auto_topup_4", "now()");
    assert_eq!(session.topups(user(2)), dec!(0));
    assert_eq!(session.topups(user(9)), dec!(0));
    let asked = [user(3), user(1), user(2), user(9), user(3)];
    assert_eq!(session.topups_bulk(&asked), [(user(1), dec!(10)), (user(3), dec!(30))]);
    assert_eq!(session.topups_bulk(&[]), []);
}

#[test]
fn only_automatic_ones_of_the_user_count() {
    let db = Database::create();
    let mut session = db.connect();
    record(&mut session, user(1), "purchase", dec!(25), "auto_topup_1", "now()");
    record(&mut session, user(1), "purchase", dec!(100), "manual_topup_1", "now()");
    record(&mut session, user(1), "purchase", dec!(25), "auto_topup_2", "now()");
    record(&mut session, user(2), "purchase", dec!(30), "auto_topup_3", "now()");
    assert_eq!(session.topups(user(1)), dec!(50));
    assert_eq!(session.topups(user(2)), dec!(30));
}
