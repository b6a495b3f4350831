//! What must hold of every ledger at rest.

use crate::Session;

impl Session {
    /// Fails if a table, an index, a trigger or what guards them is not as the extension made it.
    #[track_caller]
    pub fn assert_as_made(&mut self) {
        let wrong: Vec<String> =
            self.values("SELECT format('%s', v) FROM credits.verify_installation() v", &[]);
        assert!(wrong.is_empty(), "verify_installation: {wrong:#?}");
    }

    /// Fails unless every derived value agrees with the rows, of accounts that are on this node.
    ///
    /// Balances are compared with sums in plain SQL, and not only by asking the ledger whether it is sound.
    #[track_caller]
    pub fn assert_sound(&mut self) {
        let wrong: Vec<String> = self.values("SELECT format('%s', v) FROM credits.verify_ledger() v", &[]);
        assert!(wrong.is_empty(), "verify_ledger: {wrong:#?}");
        let wrong: Vec<String> = self.values(
            "WITH sums AS (
                 SELECT user_id, sum(CASE WHEN transaction_type IN ('purchase', 'admin_grant') THEN amount ELSE -amount END)
                 FROM credits.credits_transactions WHERE credits.is_here(user_id) GROUP BY user_id)
             SELECT format('%s: sum %s, view %s, function %s', user_id, sum, balance, credits.get_user_balance(user_id))
             FROM sums FULL JOIN credits.balances USING (user_id)
             WHERE (sum, sum) IS DISTINCT FROM (balance, credits.get_user_balance(user_id))",
            &[],
        );
        assert!(wrong.is_empty(), "balances are not the sums: {wrong:#?}");
        let wrong: Vec<String> = self.values(
            "WITH sums AS (
                 SELECT user_id, fusillade_batch_id, sum(amount), count(*), max(seq), min(created_at)
                 FROM credits.credits_transactions WHERE fusillade_batch_id IS NOT NULL AND credits.is_here(user_id) GROUP BY 1, 2)
             SELECT format('%s: %s is not %s', fusillade_batch_id, s, b)
             FROM sums s FULL JOIN credits.batches b USING (user_id, fusillade_batch_id)
             WHERE (s.sum, s.count, s.max, s.min)
                   IS DISTINCT FROM (b.total_amount, b.transaction_count, b.max_seq, b.created_at)",
            &[],
        );
        assert!(wrong.is_empty(), "batches are not the sums: {wrong:#?}");
    }
}
