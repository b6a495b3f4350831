"""What the clients of router/stress do not know, since a standby that takes over may lack what its node has answered."""

import threading
from contextlib import contextmanager


class Doubt:
    """From when a standby has got nothing any more until the clients have asked again."""

    def __init__(self, router):
        self.router, self.is_on, self.count, self.problems = router, False, 0, []
        self.loads = []
        # Which buckets, and which accounts ever.
        self.buckets, self.doubted = set(), set()
        # What clients knew when it began: that is not lost. What has surprised them since.
        self.sure, self.surprises = {}, []
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def begin(self, buckets):
        if not self.is_on:
            self.sure = {source: account for load in self.loads for source, account in dict(load.sources).items()}
            self.is_on, self.count = True, self.count + 1
        self.buckets.update(buckets)

    @contextmanager
    def of(self, account):
        try:
            yield
        except RuntimeError as surprise:
            if not self.is_on:
                raise
            self.surprises.append((account, surprise))

    def end(self):
        """The clients rest, and ask for the rows of the accounts that may have lost some. They know those of all others."""
        self.may_go_on.clear()
        for load in self.loads:
            while load.is_alive() and not load.is_resting.wait(0.1):
                pass
        accounts = ", ".join(f"'{account}'" for load in self.loads for account in load.accounts)
        buckets = dict(line.split("|") for line in self.router.sql(f"SELECT a, credits.bucket_of(a) FROM unnest(ARRAY[{accounts}]::uuid[]) a").splitlines())
        doubted = {account for account, bucket in buckets.items() if bucket in self.buckets}
        self.doubted |= doubted
        self.problems += [f"{surprise} of {account}" for account, surprise in self.surprises if account not in doubted]
        for load in self.loads:
            for account in load.accounts:
                self.ask(load, account, account in doubted)
        self.buckets, self.surprises, self.is_on, self.count = set(), [], False, self.count + 1
        self.may_go_on.set()

    def ask(self, load, account, is_doubted):
        known = {source for source, of in load.sources.items() if of == account}, load.balances[account]
        load.learn(account)
        learned = {source for source, of in load.sources.items() if of == account}, load.balances[account]
        if not is_doubted and learned != known:
            self.problems.append(f"{account} has {learned[1]}, not {known[1]}; rows: {learned[0] ^ known[0]}")
        lost = {source for source, of in self.sure.items() if of == account} - learned[0]
        strange = {source for source in learned[0] if not source.startswith(f"{load.number} ")}
        if lost or strange:
            self.problems.append(f"{account} has lost {lost} and has got {strange}")
