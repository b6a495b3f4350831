/* Settlement at commit, as src/engine/settlement carries it out, for spin. README.md in this folder says what is abstracted.

   TRANSACTIONS insert at most one row for each of USERS (TWO_ROWS: two), roll back or settle, then commit or fail. Each of
   REFRESHERS has no rows and refreshes one user's checkpoint; each of OPERATORS deletes one, which the commit makes anew.
   Every schedule and every choice of amounts is explored. Claims:

   - missed:     when all have ended, the side of zero last announced is the side of the committed balance
   - doubled:    a notification never announces the side that was announced before
   - lost_flip:  when all have ended, the side stored in the checkpoint is the side last announced
   - inexact:    what is stored as covered is the sum of the committed rows it covers
   - collision:  no settlement writes a checkpoint row that was replaced, or is being replaced, since it was read
                 (heap_update would wait, then fail the commit with "tuple concurrently updated")
   - unreal:     what a settlement decides on is a balance that the user had, with the own rows, while it held the stripe
   - unsound:    when all have ended and the count is below the limit, the balance is above zero, and so is the stored side
   - and no deadlock: every session ends.

   HEADROOM adds the headroom that src/engine/published.rs publishes. PREPARE lets any transaction be prepared, RESTARTED has one that
   was prepared before the server restarted. BEGIN_ANEW lets a settlement release its stripes and begin anew, LOST_COUNTS lets a session
   be unable to count, GROWTH has shared memory grow, by which everything is counted elsewhere. All other flags remove or change one part
   of the protocol. Each must be found wrong: see the script `check`. */

#ifndef TRANSACTIONS
#define TRANSACTIONS 2
#endif
#ifndef USERS
#define USERS 1
#endif
#ifndef STRIPES
#define STRIPES 1
#endif
#ifndef REFRESHERS
#define REFRESHERS 0
#endif
#ifndef OPERATORS
#define OPERATORS 0
#endif
#ifndef FROM            /* balance of every user before, FROM to TO: rows committed long ago, covered */
#define FROM -3
#endif
#ifndef TO
#define TO 3
#endif
#ifndef AMOUNTS         /* a row is one of these; 0: no row */
#define AMOUNTS :: amount[i] = -2 :: amount[i] = -1 :: amount[i] = 1 :: amount[i] = 2
#endif

#define SESSIONS (TRANSACTIONS + REFRESHERS + OPERATORS)
#define IS_OPERATOR(n) ((n) != NOBODY && (n) >= TRANSACTIONS + REFRESHERS)
#define NOBODY 255
#define STRIPE_OF(user) ((user) % STRIPES)
#define AMOUNT(t, user) amount[(t) * USERS + (user)]
#define TOUCHED(user, s) (STRIPE_OF(user) == (s) && AMOUNT(me, user) != 0)
#define BIT(n) (1 << (n))
#define HAS(set, n) (((set) >> (n)) & 1)
#define POSITIVE(balance) ((balance) > 0)
#define SIDE(balance) ((balance) > 0 -> 1 : 2)

/* What a scan visits: the rows of one transaction after the other. */
#ifdef TWO_ROWS
#define VISITS (2 * TRANSACTIONS)
#define MAKER(visit) ((visit) / 2)
#define ROW(visit, user) ((visit) % 2 == 0 -> AMOUNT(MAKER(visit), user) + 3 : -3)
#else
#define VISITS TRANSACTIONS
#define MAKER(visit) (visit)
#define ROW(visit, user) AMOUNT(visit, user)
#endif

/* The ledger. A row is in flight from its insertion until its transaction ends. */
short base;
short amount[TRANSACTIONS * USERS];
byte  inserted[TRANSACTIONS];           /* set of users */
byte  committed, aborted;               /* sets of transactions */

/* Checkpoint rows as committed; balance and covered are what is folded, positive the announced side. */
bool  exists[USERS], positive[USERS];
short balance[USERS];
byte  covered[USERS];                   /* set of transactions, aborted ones included */
byte  version[USERS];

/* The replacement of a checkpoint row that an open transaction has written. */
byte  writer[USERS];
bool  next_positive[USERS], next_announces[USERS];
short next_balance[USERS];
byte  next_covered[USERS];

/* Locks. */
byte  sharers[STRIPES];
bool  exclusive[STRIPES];
byte  queued[STRIPES];                  /* waiting for EXCLUSIVE: later requests for SHARE queue behind them */
bool  refreshing[USERS];                /* the try-lock of a counted refresh */

/* The side that listeners were notified of last. They take a user whom no notification has named for one at zero or below. */
bool  announced[USERS];
#ifdef NEW_USER
bool  named;                            /* whether a notification has named user 0, of whom rows may be there already */
#define NAMED(user) ((user) != 0 || named)
#else
#define NAMED(user) true
#endif

#ifdef HEADROOM
/* Shared memory: the count of the user's charges, and the headroom: while the count is below it, the balance is above zero. */
#ifdef GROWTH
/* Shared memory grows once: from then on, settlements count and publish at other places. */
bool  grown;
short charged[2 * USERS], charged_until[2 * USERS];
#define AT(user, place) ((place) * USERS + (user))
#define COUNT_OF(user) AT(user, seen_grown)
#ifdef NO_NAME_BY_GROWTH
#define UNTIL_OF(user, place) (user)
#else
#define UNTIL_OF(user, place) AT(user, place)
#endif
#else
short charged[USERS], charged_until[USERS];
#define COUNT_OF(user) (user)
#define UNTIL_OF(user, place) (user)
#endif
#endif

#ifdef LOST_COUNTS
/* How many counts were lost, and the name that charged_until was published under: how many were lost by then. */
byte lost, name[USERS];
#endif

#ifdef PREPARE
/* The committed balance with the rows of the session that holds the stripe exclusively, and the sides that it has been on since. */
short truth[USERS], own[USERS];
byte  was[USERS];
#endif

bool  missed, doubled, lost_flip, inexact, collision, unreal, unsound;
byte  ended;

#ifdef QUEUE
#define FREE_TO_SHARE(s) (!exclusive[s] && queued[s] == 0)
#else
#define FREE_TO_SHARE(s) (!exclusive[s])
#endif

#define UNLOCKED 0
#define SHARE 1
#define EXCLUSIVE 2

inline lock_share(s) { atomic { FREE_TO_SHARE(s) -> sharers[s]++; mode[s] = SHARE } }
inline lock_exclusive(s) {
#ifdef QUEUE
  queued[s]++;
  atomic { sharers[s] == 0 && !exclusive[s] -> queued[s]--; exclusive[s] = true; mode[s] = EXCLUSIVE; watch(s) }
#else
  atomic { sharers[s] == 0 && !exclusive[s] -> exclusive[s] = true; mode[s] = EXCLUSIVE; watch(s) }
#endif
}
inline watch(s) {
#ifdef PREPARE
  u = 0;
  do
  :: u < USERS ->
     if
     :: STRIPE_OF(u) == s ->
        if :: me < TRANSACTIONS -> own[u] = AMOUNT(me, u) :: else -> own[u] = 0 fi;
        was[u] = SIDE(truth[u] + own[u])
     :: else
     fi;
     u++
  :: else -> u = 0; break
  od
#else
  skip
#endif
}
inline unlock(s) {
  d_step {
    if
    :: mode[s] == SHARE -> sharers[s]--
    :: mode[s] == EXCLUSIVE -> exclusive[s] = false;
#ifdef PREPARE
       u = 0;
       do
       :: u < USERS -> if :: STRIPE_OF(u) == s -> own[u] = 0; was[u] = 0 :: else fi; u++
       :: else -> u = 0; break
       od
#endif
    :: else
    fi;
    mode[s] = UNLOCKED
  }
}

/* A fresh MVCC snapshot: which transactions have ended, and the checkpoint rows as committed now. */
inline take_snapshot() {
  d_step {
    snapshot_committed = committed; snapshot_ended = committed | aborted;
    u = 0;
    do
    :: u < USERS ->
       seen_exists[u] = exists[u]; seen_positive[u] = positive[u]; seen_balance[u] = balance[u];
       seen_covered[u] = covered[u]; seen_version[u] = version[u];
       u++
    :: else -> break
    od;
    u = 0
  }
}
/* Clears what the session reads no more: states of the search that differ only in that are one. */
inline drop_snapshot() {
  d_step {
    snapshot_committed = 0; snapshot_ended = 0;
    u = 0;
    do
    :: u < USERS ->
       seen_exists[u] = 0; seen_positive[u] = 0; seen_balance[u] = 0; seen_covered[u] = 0; seen_version[u] = 0;
#ifdef HEADROOM
       seen_charged[u] = 0;
#endif
       u++
    :: else -> break
    od;
    u = 0; settled = 0; lowest = 0; highest = 0; straddles = false; first = 0
  }
}

/* One dirty pass over the delta of a user, row by row: others may insert, commit and roll back between two rows. */
inline scan_dirty(user) {
  settled = seen_balance[user]; lowest = settled; highest = settled; t = 0;
  do
  :: t < VISITS ->
     d_step {
       if
       :: HAS(seen_covered[user], MAKER(t)) || !HAS(inserted[MAKER(t)], user) || HAS(aborted, MAKER(t))
       :: else ->
          if
          :: MAKER(t) == me || HAS(committed, MAKER(t)) ->
             settled = settled + ROW(t, user);
             lowest = lowest + ROW(t, user); highest = highest + ROW(t, user)
          :: else ->                    /* in flight in another transaction */
#ifdef NO_DIRTY_SCAN
             skip
#else
             if
             :: ROW(t, user) < 0 -> lowest = lowest + ROW(t, user)
             :: else -> highest = highest + ROW(t, user)
             fi
#endif
          fi
       fi;
       t++
     }
  :: else -> break
  od;
  t = 0
}

/* The balance of the snapshot, with the own rows. */
inline sum_snapshot(user) {
  d_step {
    settled = seen_balance[user]; t = 0;
    do
    :: t < TRANSACTIONS ->
       if
       :: !HAS(seen_covered[user], t) && HAS(inserted[t], user) && (t == me || HAS(snapshot_committed, t)) ->
          settled = settled + AMOUNT(t, user)
       :: else
       fi;
       t++
    :: else -> break
    od;
    t = 0
  }
}

#ifdef BLIND_WRITES
/* Without the check of the version: the later writer waits for the earlier one and replaces what it wrote. */
#define READY_TO_WRITE(user) (writer[user] == NOBODY || writer[user] == me)
#define CHECK_COLLISION(user) skip
#else
#define READY_TO_WRITE(user) true
#define CHECK_COLLISION(user) \
  collision = (writer[user] != NOBODY && writer[user] != me) || version[user] != seen_version[user]; assert(!collision)
#endif

/* Writes the whole row: the announced side as given; the coverage as it was, or extended to all that ended before the snapshot. */
inline write_row(user, extend, side, announces) {
  atomic {
#if OPERATORS
    /* An operator has deleted the row: Postgres fails the session that waits for it, or ends the deadlock. */
    if
    :: IS_OPERATOR(writer[user]) -> fails = true
    :: else ->
#endif
    READY_TO_WRITE(user) -> CHECK_COLLISION(user);
    d_step {
      next_balance[user] = seen_balance[user]; next_covered[user] = seen_covered[user]; t = 0;
      do
      :: t < TRANSACTIONS && (extend) ->
         if
#ifdef NO_WATERMARK
         :: HAS(inserted[t], user) && !HAS(seen_covered[user], t) ->
#else
         :: HAS(snapshot_ended, t) && !HAS(seen_covered[user], t) ->
#endif
            next_covered[user] = next_covered[user] | BIT(t);
            if
            :: HAS(snapshot_committed, t) -> next_balance[user] = next_balance[user] + AMOUNT(t, user)
            :: else
            fi
         :: else
         fi;
         t++
      :: else -> t = 0; break
      od;
      writer[user] = me; next_positive[user] = side; next_announces[user] = announces
    }
#if OPERATORS
    fi
#endif
  }
}

#ifdef HEADROOM
#define DEBIT(user) (AMOUNT(me, user) < 0 -> -AMOUNT(me, user) : 0)
#define CREDIT(user) (AMOUNT(me, user) > 0 -> AMOUNT(me, user) : 0)

#ifdef LOST_COUNTS
#ifdef NO_NAME_BY_LOST
#define IN_STATE(user) (!detached)
#else
#define IN_STATE(user) (!detached && name[user] == seen_lost)
#endif
#else
#define IN_STATE(user) true
#endif
#define SUFFICES(user) (IN_STATE(user) && seen_charged[user] < charged_until[UNTIL_OF(user, seen_grown)] && !counted)

/* Counts the own charges of the stripe's users. */
inline count_charges(s) {
#ifdef LOST_COUNTS
  seen_lost = lost;
#endif
#if defined(GROWTH) && !defined(PLACE_BEFORE_ROWS) && !defined(PLACE_BEFORE_LOCK)
  seen_grown = grown;
#endif
  user = 0;
  do
  :: user < USERS ->
     atomic {
       if
#ifdef LOST_COUNTS
#ifndef NO_RECORD_OF_LOST
       :: TOUCHED(user, s) && detached -> lost++
#endif
       :: TOUCHED(user, s) && !detached ->
#else
       :: TOUCHED(user, s) ->
#endif
          seen_charged[user] = charged[COUNT_OF(user)] + DEBIT(user);
#ifndef COUNT_AFTER_CHECK
          charged[COUNT_OF(user)] = seen_charged[user]
#endif
       :: else
       fi
     };
     user++
  :: else -> user = 0; break
  od
}

#ifdef PLACE_AFTER_SCAN
#define PUBLISHED_AT(user) UNTIL_OF(user, grown)
#else
#define PUBLISHED_AT(user) UNTIL_OF(user, seen_grown)
#endif

/* The headroom that the pass leaves; own grants may still be rolled back. */
inline publish(user) {
  d_step {
#ifdef COUNT_OWN_GRANTS
    margin = lowest;
#else
    margin = lowest - CREDIT(user);
#endif
#ifdef COUNT_AFTER_SCAN
    margin = margin + charged[COUNT_OF(user)];
#else
    margin = margin + seen_charged[user];
#endif
#ifdef LOST_COUNTS
    if
    :: detached -> skip
#ifdef NAME_AFTER_SCAN
    :: !detached && seen_positive[user] && name[user] != lost -> charged_until[UNTIL_OF(user, seen_grown)] = margin; name[user] = lost
#else
    :: !detached && seen_positive[user] && name[user] != seen_lost -> charged_until[UNTIL_OF(user, seen_grown)] = margin; name[user] = seen_lost
#endif
    :: else ->
#endif
    if
    :: seen_positive[user] && margin > charged_until[PUBLISHED_AT(user)] -> charged_until[PUBLISHED_AT(user)] = margin
    :: else
    fi;
#ifdef LOST_COUNTS
    fi;
#endif
    margin = 0
  }
}
#endif

/* Counted refresh, the stripe held SHARE: skipped if another transaction is at it, the announced side unchanged. */
inline refresh(user) {
  if
#ifdef NO_TRY_LOCK
  :: true ->
#else
  :: atomic { !refreshing[user] -> refreshing[user] = true; try_locks = try_locks | BIT(user) };
#endif
     take_snapshot();
     if
     :: seen_exists[user] -> write_row(user, true, seen_positive[user], false)
     :: else
     fi;
#ifdef BEGIN_ANEW
     has_all_relations = true;
#endif
     drop_snapshot()
  :: else
  fi
}

/* Under SHARE: whether the balance may come to lie on the other side, so that it has to be decided. */
inline assess(user) {
  if
#ifdef HEADROOM
  :: SUFFICES(user) ->
#ifdef COUNT_AFTER_CHECK
     charged[COUNT_OF(user)] = charged[COUNT_OF(user)] + DEBIT(user)
#else
     skip
#endif
  :: !SUFFICES(user) && !seen_exists[user] -> straddles = true
#else
  :: !seen_exists[user] -> straddles = true
#endif
  :: else ->
     scan_dirty(user);
     straddles = (POSITIVE(lowest) != seen_positive[user]) || (POSITIVE(highest) != seen_positive[user])
#ifdef HEADROOM
     ;
#ifdef COUNT_AFTER_CHECK
     charged[COUNT_OF(user)] = charged[COUNT_OF(user)] + DEBIT(user);
#endif
     if :: !straddles -> publish(user) :: else fi
#endif
  fi
}

/* Under EXCLUSIVE: compares the announced side with that of the balance that this commit makes, rows in flight ignored. A user
   without a checkpoint row gets one, with the side of the balance without the own rows. */
inline decide(user) {
#ifndef NO_REREAD
#ifdef DIRTY_DECISION
  scan_dirty(user);
#else
  sum_snapshot(user);
#endif
#endif
#ifdef PREPARE
  d_step { unreal = (was[user] & SIDE(settled)) == 0; assert(!unreal) };
#endif
  d_step {
    if
    :: seen_exists[user] -> lowest = seen_positive[user]
    /* No notification has named the user: a balance above zero is announced, and one that comes down from there. */
#ifdef NAMED_BY_ROWS
    :: else -> lowest = POSITIVE(settled - AMOUNT(me, user))
#else
    :: else -> lowest = POSITIVE(settled - AMOUNT(me, user)) && !POSITIVE(settled)
#endif
    fi;
    highest = POSITIVE(settled)
  };
  if
  :: lowest != highest || !seen_exists[user] || counted || forced ->
     write_row(user, counted || forced || !seen_exists[user], highest, lowest != highest)
  :: else
  fi
}

#ifdef BEGIN_ANEW
/* The lock of a relation is not free: lets all stripes go, waits for it, settles from the first stripe on. */
inline begin_anew() {
  begun_anew = true;
  drop_snapshot();
  n = 0;
  do
  :: n < STRIPES -> unlock(n); n++
  :: else -> break
  od;
  user = 0; n = 0;
  goto anew
}
#ifdef ANEW_AFTER_REFRESH
#define MAY_BEGIN_ANEW (!begun_anew)
#else
#define MAY_BEGIN_ANEW (!begun_anew && !has_all_relations)
#endif
#endif

inline settle_stripe(s) {
#ifdef PLACE_BEFORE_LOCK
  seen_grown = grown;
#endif
#ifdef COUNT_BEFORE_LOCK
  count_charges(s);
#endif
#ifndef NO_SHARED_LOCK
  if :: !forced -> lock_share(s) :: else fi;
#endif
#if defined(HEADROOM) && !defined(COUNT_BEFORE_LOCK)
#ifdef COUNTED_ONCE
  if :: !begun_anew -> count_charges(s) :: else fi;
#else
  count_charges(s);
#endif
#endif
#ifdef BEGIN_ANEW
  if :: MAY_BEGIN_ANEW -> begin_anew() :: skip fi;
#endif
  if :: !forced -> take_snapshot() :: else fi;
  straddles = forced; user = 0;
  do
  :: user < USERS && !straddles ->
     if
     :: TOUCHED(user, s) ->
        assess(user);
#ifdef REFRESH_BEFORE_DECISION
        if :: !straddles && counted -> refresh(user); take_snapshot() :: else fi;
#endif
        if :: straddles -> first = user :: else fi
     :: else
     fi;
     user++
  :: else -> break
  od;
  if
  :: straddles ->
#ifdef BEGIN_ANEW
     if :: MAY_BEGIN_ANEW -> begin_anew() :: skip fi;
     has_all_relations = true;
#endif
#ifndef NO_SHARED_LOCK
     unlock(s);                       /* not shared if forced */
#endif
#ifndef NO_EXCLUSIVE_LOCK
     lock_exclusive(s);
#endif
#ifndef NO_REREAD
     take_snapshot();
#endif
#ifdef NO_RESCAN
     user = first;
#else
     user = 0;
#endif
     do
     :: user < USERS -> if :: TOUCHED(user, s) -> decide(user) :: else fi; user++
     :: else -> break
     od
  :: else ->
     drop_snapshot();
#ifndef REFRESH_BEFORE_DECISION
     user = 0;
     do
     :: user < USERS -> if :: TOUCHED(user, s) && counted -> refresh(user) :: else fi; user++
     :: else -> break
     od
#endif
  fi;
  drop_snapshot(); user = 0
}

/* The commit record: rows, checkpoint rows and notifications become visible at once. */
inline commit() {
  d_step {
    if :: me < TRANSACTIONS -> committed = committed | BIT(me) :: else fi;
    u = 0;
    do
    :: u < USERS ->
#ifdef PREPARE
       if
       :: me < TRANSACTIONS ->
          truth[u] = truth[u] + AMOUNT(me, u);
          if
          :: exclusive[STRIPE_OF(u)] && mode[STRIPE_OF(u)] != EXCLUSIVE -> was[u] = was[u] | SIDE(truth[u] + own[u])
          :: else
          fi
       :: else
       fi;
#endif
       if
       :: writer[u] == me ->
          exists[u] = true; positive[u] = next_positive[u];
          balance[u] = next_balance[u]; covered[u] = next_covered[u]; version[u]++;
          if
          :: next_announces[u] ->
             doubled = (NAMED(u) && announced[u] == next_positive[u]); assert(!doubled);
#ifdef NEW_USER
             named = named || u == 0;
#endif
             announced[u] = next_positive[u]
          :: else
          fi
       :: else
       fi;
       u++
    :: else -> break
    od;
    u = 0
  }
}
inline roll_back() { d_step { if :: me < TRANSACTIONS -> aborted = aborted | BIT(me) :: else fi } }

/* After the outcome is visible: the rows that were written have no writer any more, then the locks are released one by one. */
inline release() {
  d_step {
    u = 0;
    do
    :: u < USERS ->
       if
       :: writer[u] == me ->
          writer[u] = NOBODY; next_positive[u] = 0; next_announces[u] = 0; next_balance[u] = 0; next_covered[u] = 0
       :: else
       fi;
       u++
    :: else -> break
    od;
    u = 0
  };
  n = 0;
  do
  :: n < STRIPES -> unlock(n); n++
  :: else -> break
  od;
  n = 0;
  d_step {
    u = 0;
    do
    :: u < USERS -> if :: HAS(try_locks, u) -> refreshing[u] = false :: else fi; u++
    :: else -> break
    od;
    u = 0; try_locks = 0; ended++
  }
}

#ifdef HEADROOM
#ifdef LOST_COUNTS
#define HEADROOM_LOCALS ; short seen_charged[USERS], margin; byte seen_lost; bool detached
#elif defined(GROWTH)
#define HEADROOM_LOCALS ; short seen_charged[USERS], margin; bool seen_grown
#else
#define HEADROOM_LOCALS ; short seen_charged[USERS], margin
#endif
#else
#define HEADROOM_LOCALS
#endif
#ifdef BEGIN_ANEW
#define ANEW_LOCALS , begun_anew, has_all_relations
#else
#define ANEW_LOCALS
#endif
#define LOCALS \
  byte mode[STRIPES]; byte try_locks; byte u, user, t, n, first; \
  byte snapshot_committed, snapshot_ended; \
  bool seen_exists[USERS], seen_positive[USERS]; short seen_balance[USERS]; \
  byte seen_covered[USERS], seen_version[USERS]; \
  short settled, lowest, highest; bool straddles, forced, counted, fails ANEW_LOCALS HEADROOM_LOCALS

proctype Transaction(byte me) {
  LOCALS;
  bool descending;

#ifdef PLACE_BEFORE_ROWS
  seen_grown = grown;
#endif
  do
  :: user < USERS ->
     atomic { if :: AMOUNT(me, user) != 0 -> inserted[me] = inserted[me] | BIT(user) :: else fi; user++ }
  :: else -> user = 0; break
  od;
#ifdef LOST_COUNTS
  if :: detached = true :: skip fi;                /* has no shared memory: it cannot count, nor see what is published */
#endif
#ifdef RESTARTED
  if :: me == 0 -> goto end_prepared :: else fi;   /* prepared before the server was restarted */
#endif
  if
  :: roll_back(); goto released                    /* by the application */
  :: skip
#ifdef REFRESH
  :: counted = true                                /* the delta has become long */
#endif
#ifdef FORCE
  :: forced = true                                 /* refresh_checkpoint was called */
#endif
#ifdef PREPARE
  :: goto prepared
#endif
  fi;
#ifdef NO_ORDER
  if :: descending = true :: skip fi;
#endif
#ifdef BEGIN_ANEW
anew:
#endif
  do
  :: n < STRIPES ->
     if
     :: descending -> settle_stripe(STRIPES - 1 - n)
     :: else -> settle_stripe(n)
     fi;
     n++
  :: else -> n = 0; break
  od;
  if
  :: !fails -> commit()
  :: roll_back()                                   /* an error after the decision */
  fi;
#ifdef PREPARE
  goto released;
prepared:                                          /* counts, settles no user, holds no lock */
#ifndef NO_COUNT_OF_PREPARED
  do
  :: n < STRIPES -> count_charges(n); n++
  :: else -> n = 0; break
  od;
#endif
end_prepared:
  if :: commit() :: roll_back() fi;
#endif
released:
#ifdef LOST_COUNTS
  detached = false; seen_lost = 0;
#endif
#ifdef GROWTH
  seen_grown = false;
#endif
#ifdef BEGIN_ANEW
  begun_anew = false; has_all_relations = false;
#endif
  forced = false; counted = false; descending = false; fails = false;
  release()
}

#if OPERATORS
/* Deletes a checkpoint, which its commit makes anew from all rows, with the side that was announced. */
proctype Operator(byte me) {
  LOCALS;
  atomic { writer[0] == NOBODY && exists[0] -> writer[0] = me };
  if
  :: roll_back(); goto released
  :: skip
  fi;
  lock_exclusive(STRIPE_OF(0));
  take_snapshot();
  d_step {
    seen_balance[0] = base; seen_covered[0] = 0;
  };
  sum_snapshot(0);
#ifndef NO_KEPT_SIDE
  lowest = seen_positive[0];
#else
  lowest = POSITIVE(settled);
#endif
  highest = POSITIVE(settled);
  d_step {
    next_balance[0] = settled; next_covered[0] = snapshot_ended;
    next_positive[0] = highest; next_announces[0] = (lowest != highest)
  };
  drop_snapshot();
  if :: commit() :: roll_back() fi;
released:
  release()
}
#endif

#ifdef GROWTH
/* A session that makes shared memory larger. */
proctype Grower() { grown = true }
#endif

/* Refreshes a user's checkpoint without rows of its own, as the settlement of a requested refresh does. */
proctype Refresher(byte me) {
  LOCALS;
#ifndef NO_SHARED_LOCK_FOR_REFRESH
  lock_share(STRIPE_OF(0));
#endif
  refresh(0);
  if :: commit() :: roll_back() fi;
  release()
}

init {
  byte i, u, t;
  short sum, sum_covered;
  base = FROM;
  do
  :: base < TO -> base++
  :: break
  od;
  u = 0;
  d_step {
    do
    :: u < USERS ->
       exists[u] = true; positive[u] = POSITIVE(base); announced[u] = POSITIVE(base); balance[u] = base;
       writer[u] = NOBODY;
#ifdef PREPARE
       truth[u] = base;
#endif
#ifdef HEADROOM
       /* As an earlier settlement has published it. */
#if !defined(RESTARTED) || defined(KEPT_HEADROOM)
       if :: base > 0 -> charged_until[u] = base :: else fi;
#endif
#endif
       u++
    :: else -> break
    od;
#ifdef NEW_USER
    exists[0] = false; positive[0] = false; balance[0] = base; announced[0] = false;
#ifdef HEADROOM
    charged_until[0] = 0
#endif
#endif
  };
  do
  :: i < TRANSACTIONS * USERS -> if AMOUNTS fi; i++
  :: else -> break
  od;
#ifdef RESTARTED
  u = 0;
  d_step {
    do
    :: u < USERS -> if :: AMOUNT(0, u) != 0 -> inserted[0] = inserted[0] | BIT(u) :: else fi; u++
    :: else -> u = 0; break
    od
  };
#endif
  atomic {
    i = 0;
    do
    :: i < TRANSACTIONS -> run Transaction(i); i++
    :: i >= TRANSACTIONS && i < TRANSACTIONS + REFRESHERS -> run Refresher(i); i++
#if OPERATORS
    :: i >= TRANSACTIONS + REFRESHERS && i < SESSIONS -> run Operator(i); i++
#endif
    :: else -> break
    od
#ifdef GROWTH
    ; run Grower()
#endif
  };
  ended == SESSIONS;
  d_step {
    u = 0;
    do
    :: u < USERS ->
       sum = base; sum_covered = base; t = 0;
       do
       :: t < TRANSACTIONS ->
          if
          :: HAS(committed, t) ->
             sum = sum + AMOUNT(t, u);
             if :: HAS(covered[u], t) -> sum_covered = sum_covered + AMOUNT(t, u) :: else fi
          :: else
          fi;
          t++
       :: else -> break
       od;
#ifndef PREPARE
       missed = ((exists[u] || NAMED(u)) && announced[u] != POSITIVE(sum)); assert(!missed);
#endif
       lost_flip = (exists[u] && positive[u] != announced[u]); assert(!lost_flip);
#ifdef HEADROOM
#ifdef LOST_COUNTS
       unsound = (name[u] == lost && charged[u] < charged_until[u] && (!POSITIVE(sum) || !positive[u])); assert(!unsound);
#else
#ifdef GROWTH
       t = AT(u, grown);
       unsound = (charged[t] < charged_until[UNTIL_OF(u, grown)] && (!POSITIVE(sum) || !positive[u])); assert(!unsound);
#else
       unsound = (charged[u] < charged_until[u] && (!POSITIVE(sum) || !positive[u])); assert(!unsound);
#endif
#endif
#endif
       inexact = (exists[u] && balance[u] != sum_covered); assert(!inexact);
       u++
    :: else -> break
    od
  }
}
