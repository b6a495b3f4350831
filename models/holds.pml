/* Coverage: how a commit makes sure that an account's limit is kept, as src/engine/settlement and src/engine/cover.rs do it, for
   spin. README.md in this folder says what is abstracted; settlement.pml has the crossings, the checkpoints and the stripes.

   One account, one hold in it of HOLD, TRANSACTIONS of one kind each. Every schedule and every choice of KINDS is explored. Claims:

   - overspent:  when a transaction with guarded rows commits, what is available is not below the limit; plain usage, and what captures
                 take beyond their hold, is left aside if it committed after the transaction's decision. Where there is none of these
                 and nobody changes the limit, no commit at all takes what is available below it
   - refused:    a transaction is refused only if it has something that must be covered, and at some moment while it had the stripe
                 what had committed, with its own rows, did not cover it
   - unsound:    when all have ended and the count is below covered_until, so much could be charged yet and the limit be kept
   - and no deadlock: every session ends.

   PREPARE lets transactions be prepared that may be, RESTARTED has one that was prepared before the server restarted. GROWTH has
   shared memory grow, by which everything is counted elsewhere. LOST_COUNTS lets
   sessions be unable to count. EXPIRES lets the hold expire at any moment. LIMIT_AFTER has a session that changes the limit, REDACTION
   one that redacts the account. DOUBT lets a settlement find another user of the stripe in doubt, BEGIN_ANEW the lock of a relation
   taken. All other flags remove or change one part. Each must be found wrong: see the script `check`. */

#ifndef TRANSACTIONS
#define TRANSACTIONS 2
#endif
#ifndef BALANCE
#define BALANCE 10
#endif
#ifndef HOLD                    /* the amount of the hold that is there at first */
#define HOLD 5
#endif
#ifndef LIMIT
#define LIMIT 0
#endif
#ifndef KINDS
#define KINDS :: kind[i] = MAKE :: kind[i] = CHARGE
#endif
#ifndef PREPARED_KINDS          /* RESTARTED: of the one that was prepared */
#define PREPARED_KINDS :: kind[i] = CAPTURE :: kind[i] = RELEASE :: kind[i] = USE :: kind[i] = GRANT :: kind[i] = PUT :: kind[i] = MOVE
#endif
#ifndef AMOUNTS                 /* what a transaction holds, charges, uses, grants; captures */
#define AMOUNTS :: amount[i] = 5
#endif

#define NOBODY 255
#define BIT(n) (1 << (n))
#define HAS(set, n) (((set) >> (n)) & 1)

/* What a transaction does. Guarded: */
#define MAKE 1                  /* makes a hold */
#define CHARGE 2                /* charges */
#define MAKE_AND_CAPTURE 3      /* makes a hold and captures it */
#define RELEASE_AND_MAKE 4      /* releases the hold that is there and makes one */
#define GRANT_AND_CHARGE 5      /* inserts a grant twice as large, and charges */
/* Guarded if the hold has expired: */
#define EXTEND 6                /* extends the hold that is there */
/* Not guarded: */
#define CAPTURE 7               /* captures the hold that is there */
#define RELEASE 8               /* releases it */
#define USE 9                   /* inserts usage */
#define GRANT 10                /* inserts a grant */
#define MAKE_AND_RELEASE 11     /* makes a hold and releases it, or rolls back to a savepoint before it */
#define PUT 12                  /* inserts a hold by hand */
#define MOVE 13                 /* extends the hold that is there by hand, expired or not */

#define EXTENDS(k) ((k) == EXTEND || (k) == MOVE)
#define TOUCHES(k) ((k) == CAPTURE || EXTENDS(k) || (k) == RELEASE || (k) == RELEASE_AND_MAKE)
#define MAKES_HOLD(k) ((k) == MAKE || EXTENDS(k) || (k) == RELEASE_AND_MAKE || (k) == PUT)
#define USES(k) ((k) == CHARGE || (k) == MAKE_AND_CAPTURE || (k) == GRANT_AND_CHARGE || (k) == CAPTURE || (k) == USE)
#define MUST_BE_COVERED(k) ((k) <= GRANT_AND_CHARGE)
#ifdef PREPARE_EXTENSION
#define MAY_BE_PREPARED(k) ((k) >= EXTEND && (k) != MAKE_AND_RELEASE)
#else
#define MAY_BE_PREPARED(k) ((k) > EXTEND && (k) != MAKE_AND_RELEASE)
#endif
#define USAGE(t) (USES(kind[t]) -> amount[t] : 0)
#define GRANTED(t) (kind[t] == GRANT_AND_CHARGE -> 2 * amount[t] : (kind[t] == GRANT -> amount[t] : 0))
#define HELD(t) (EXTENDS(kind[t]) -> HOLD : amount[t])

byte  kind[TRANSACTIONS];
short amount[TRANSACTIONS];

/* The ledger: sets of transactions whose row is inserted, and the outcomes. */
byte  inserted, committed, aborted;

/* Holds are versions of rows: 0 is the one that is there at first, t + 1 what transaction t has made or extended. */
#define VERSIONS (TRANSACTIONS + 1)
byte  versions = 1;                     /* set of those with an index entry */
byte  deleter[VERSIONS];                /* who has deleted it, in flight or committed */
byte  current;                          /* the committed version of the hold of the beginning, whoever has changed it */
bool  captures_first[TRANSACTIONS];     /* whose deletion is of version 0, which can expire */
bool  gone;                             /* it has been deleted */
bool  expired;                          /* version 0 has expired; later ones do not */
#define DELETED(v) (deleter[v] != NOBODY && HAS(committed, deleter[v]))

/* The limit in the account's checkpoint. */
short overdraft_limit = LIMIT;

/* The stripe. */
byte  sharers;
bool  exclusive;

/* Shared memory: what has been charged, the headroom, the lost counts, and the name that the headroom was published under. */
#ifdef GROWTH
/* It grows once: from then on, everything is counted and published at another place. */
bool  grown;
short charged_at[2], covered_until_at[2];
#define charged charged_at[place]
#ifdef NO_NAME_BY_GROWTH
#define covered_until covered_until_at[0]
#else
#define covered_until covered_until_at[place]
#endif
#define TAKE_PLACE place = grown
#ifdef NO_REREAD_OF_GROWTH
#define IN_PLACE true
#else
#define IN_PLACE (grown == place)
#endif
#else
short charged, covered_until;
#define TAKE_PLACE skip
#define IN_PLACE true
#endif
byte  lost, name;

/* For the claims. */
bool  overspent, refused, unsound;
bool  plain;                            /* somebody charges who is never refused, or changes the limit */
byte  deciding = NOBODY;                /* who has the stripe exclusively */
bool  was_short;                        /* whether since then, at some moment, its rows were not covered */
short watched;
byte  ended;

#define CHANGER TRANSACTIONS
#define REDACTOR (TRANSACTIONS + 1)
#ifdef LIMIT_AFTER
#define CHANGERS 1
#else
#define CHANGERS 0
#endif
#ifdef REDACTION
#define REDACTORS 1
#else
#define REDACTORS 0
#endif

#define UNLOCKED 0
#define SHARE 1
#define EXCLUSIVE 2

/* What is available of the rows of these transactions, at a moment at which version 0 has expired or not. */
inline sum_available(result, done, has_expired) {
  result = BALANCE; v = 0;
  do
  :: v < VERSIONS ->
     if
     :: (v == 0 && !(has_expired) || v > 0 && HAS(done, v - 1) && MAKES_HOLD(kind[v - 1])) && !(deleter[v] != NOBODY && HAS(done, deleter[v])) ->
        result = result - (v == 0 -> HOLD : HELD(v - 1))
     :: else
     fi;
     if
     :: v > 0 && HAS(done, v - 1) -> result = result - USAGE(v - 1) + GRANTED(v - 1)
     :: else
     fi;
     v++
  :: else -> v = 0; break
  od
}

inline lock_share() { atomic { !exclusive -> sharers++; mode = SHARE } }
inline lock_exclusive() {
  atomic {
    sharers == 0 && !exclusive -> exclusive = true; mode = EXCLUSIVE; deciding = me; was_short = false;
    if :: me < TRANSACTIONS -> watch() :: else fi
  }
}
/* While a session has the stripe to itself: whether what has committed covers its rows. */
inline watch() {
  if
  :: deciding != NOBODY && deciding < TRANSACTIONS ->
     sum_available(watched, committed | 1 << deciding, expired);
     was_short = was_short || watched < -overdraft_limit; watched = 0
  :: else
  fi
}
inline unlock() {
  d_step {
    if
    :: mode == SHARE -> sharers--
    :: mode == EXCLUSIVE -> exclusive = false; deciding = NOBODY; was_short = false
    :: else
    fi;
    mode = UNLOCKED
  }
}
/* The own charges. A hold counts as charged when it is inserted, and when it is extended; a deletion counts as nothing. */
#ifdef HOLD_NOT_COUNTED
#define MADE(k) 0
#else
#define MADE(k) ((k) == MAKE || (k) == RELEASE_AND_MAKE || (k) == PUT || (k) == MAKE_AND_CAPTURE || (k) == MAKE_AND_RELEASE)
#endif
#ifdef EXTENSION_NOT_COUNTED
#define EXTENDED(k) 0
#else
#define EXTENDED(k) EXTENDS(k)
#endif
#define CHARGED (USAGE(me) + (MADE(kind[me]) -> amount[me] : 0) + (EXTENDED(kind[me]) -> HOLD : 0))

/* What the own transaction adds to what is available, which it takes back if it rolls back. */
#ifdef OWN_GRANTS_COUNTED
#define OWN_GRANTS 0
#else
#define OWN_GRANTS GRANTED(me)
#endif
#ifdef OWN_DELETIONS_COUNTED
#define OWN_DELETIONS 0
#else
#define OWN_DELETIONS \
  ((TOUCHES(kind[me]) && !EXTENDS(kind[me]) -> HOLD : 0) + \
   (kind[me] == MAKE_AND_CAPTURE || kind[me] == MAKE_AND_RELEASE -> amount[me] : 0))
#endif

inline count() {
  d_step {
#ifdef LOST_COUNTS
    if
    :: detached ->
#ifndef NO_RECORD_OF_LOST
       if :: CHARGED != 0 || GRANTED(me) != 0 -> lost++ :: else fi
#endif
       skip
    :: else -> charged = charged + CHARGED
    fi;
#else
    charged = charged + CHARGED;
#endif
    seen_charged = charged; decided = committed
  }
}

#ifdef LOST_COUNTS
#define MAY_USE (!detached && name == seen_lost)
#else
#define MAY_USE true
#endif
#define SUFFICES (MAY_USE && seen_charged < covered_until)

/* Reads the clock, and says by it whether the own rows must be covered. */
inline judge() {
  d_step {
    has_expired = expired;
    guarded = MUST_BE_COVERED(kind[me]);
#ifdef FORGOTTEN_AT_CAPTURE
    guarded = guarded && kind[me] != MAKE_AND_CAPTURE;
#endif
#ifdef GUARDED_THOUGH_GONE
    guarded = guarded || kind[me] == MAKE_AND_RELEASE;
#endif
#ifdef EXTENSION_ALWAYS_GUARDED
    guarded = guarded || kind[me] == EXTEND
#else
#ifndef EXTENSION_NEVER_GUARDED
    guarded = guarded || (kind[me] == EXTEND && touched == 0 && has_expired)
#endif
#endif
  }
}

/* One dirty pass over holds: the index entries at once, as a leaf page is read, then row by row. Version 0 comes last. */
inline pass_over_holds() {
  page = versions; v = 1;
  do
  :: v < VERSIONS ->
     d_step {
       if
       :: HAS(page, v) && !HAS(aborted, v - 1) && !DELETED(v) && deleter[v] != me -> lowest = lowest - HELD(v - 1);
          if :: v - 1 == me || HAS(committed, v - 1) -> settled = settled - HELD(v - 1) :: else fi
       :: else
       fi;
#ifdef DELETED_IN_FLIGHT_IS_GONE
       if
       :: HAS(page, v) && !HAS(aborted, v - 1) && !DELETED(v) && deleter[v] != me && deleter[v] != NOBODY ->
          lowest = lowest + HELD(v - 1)
       :: else
       fi;
#endif
       v++
     }
  :: else -> break
  od;
  v = 0;
  d_step {
    page = 0;
    if
#ifdef CLOCK_AT_EACH_ROW
    :: DELETED(0) || deleter[0] == me || expired
#else
    :: DELETED(0) || deleter[0] == me || has_expired
#endif
#ifdef DELETED_IN_FLIGHT_IS_GONE
    :: deleter[0] != NOBODY && !DELETED(0) && deleter[0] != me
#endif
    :: else -> lowest = lowest - HOLD; settled = settled - HOLD
    fi
  }
}
/* Then one over the ledger's delta. */
inline pass_over_ledger() {
  page = inserted; v = 0;
  do
  :: v < TRANSACTIONS ->
     d_step {
       if
       :: HAS(page, v) && !HAS(aborted, v) ->
          lowest = lowest - USAGE(v);
          if
          :: v == me || HAS(committed, v) ->
             lowest = lowest + GRANTED(v); settled = settled - USAGE(v) + GRANTED(v)
          :: else
#ifdef GRANTS_IN_FLIGHT_COUNTED
             -> lowest = lowest + GRANTED(v)
#endif
          fi
       :: else
       fi;
       v++
     }
  :: else -> break
  od;
  v = 0; page = 0
}
inline pass() {
  d_step { lowest = BALANCE; settled = BALANCE };
#ifdef LEDGER_FIRST
  pass_over_ledger(); pass_over_holds()
#else
  pass_over_holds(); pass_over_ledger()
#endif
}

/* Publishes what the pass leaves. One that has looked at holds raises covered_until; in another name it replaces it. */
inline publish() {
  d_step {
    margin = seen_charged + lowest + seen_limit - OWN_GRANTS - OWN_DELETIONS;
    if
#ifdef LOST_COUNTS
    :: detached
#ifdef NAME_AFTER_PASS
    :: !detached && name != lost -> covered_until = margin; name = lost
#else
    :: !detached && name != seen_lost -> covered_until = margin; name = seen_lost
#endif
    :: !detached && name == seen_lost && margin > covered_until -> covered_until = margin
#else
    :: margin > covered_until -> covered_until = margin
#endif
    :: else
    fi;
    margin = 0
  }
}
/* A pass that has not looked at holds publishes the two other words, and keeps covered_until where the name is the same. */
inline publish_others() {
#ifdef LOST_COUNTS
  d_step {
    if
    :: !detached && name != seen_lost ->
#ifndef KEPT_OVER_NAMES
       covered_until = 0;
#endif
       name = seen_lost
    :: else
    fi
  }
#else
  skip
#endif
}

/* Under SHARE: whether the own rows are covered whatever becomes of those in flight. */
inline assess() {
  if
  :: !guarded -> covered = true; if :: publish_others() :: skip fi
  :: guarded && SUFFICES -> covered = true
  :: else ->
     pass();
     d_step {
#ifdef BY_INTERVAL_ALONE
       covered = lowest + seen_limit >= 0;
#else
       covered = charged - seen_charged <= lowest + seen_limit && IN_PLACE;
#ifdef LOST_COUNTS
#ifdef NO_REREAD_OF_LOST
       covered = covered && !detached;
#else
       covered = covered && !detached && lost == seen_lost;
#endif
#endif
#endif
       if :: covered -> decided = committed :: else fi
     };
#ifdef PUBLISH_LATE
     late = covered
#else
     if :: covered -> publish() :: else fi
#endif
  fi
}

#if defined(JUDGED_ONCE) || defined(COVERED_ONCE)
#define JUDGE_AGAIN has_expired = expired
#else
#define JUDGE_AGAIN judge()
#endif

/* Under EXCLUSIVE: what has committed and the own rows, on one snapshot, at a moment after it. Refuses what they do not cover. */
inline decide() {
#ifdef DIRTY_DECISION
  JUDGE_AGAIN;
  if :: guarded -> pass() :: else fi;
  decided = committed;
#else
#ifdef CLOCK_BEFORE_SNAPSHOT
  JUDGE_AGAIN;
  decided = committed;
#else
  decided = committed;
  JUDGE_AGAIN;
#endif
#endif
  d_step {
#ifndef DIRTY_DECISION
    sum_available(settled, decided | 1 << me, has_expired);
#endif
    covered = !guarded || settled >= -overdraft_limit;
    refused = !covered && (!was_short || !(MUST_BE_COVERED(kind[me]) || (kind[me] == EXTEND && touched == 0 && expired)));
    assert(!refused);
    settled = 0; lowest = 0
  }
}

/* What is available, without plain usage, and what captures took beyond their hold, that committed after the decision. */
inline claim() {
  sum_available(settled, committed, expired); v = 0;
  do
  :: v < TRANSACTIONS ->
     if
     :: HAS(committed, v) && !HAS(decided, v) ->
        if
        :: kind[v] == USE || kind[v] == PUT -> settled = settled + amount[v]
        :: kind[v] == CAPTURE -> settled = settled + (captures_first[v] && expired -> amount[v] : amount[v] - HOLD)
        :: kind[v] == MOVE -> settled = settled + (captures_first[v] && expired -> HOLD : 0)
        :: else
        fi
     :: else
     fi;
     v++
  :: else -> v = 0; break
  od;
  overspent = settled < -overdraft_limit; assert(!overspent); settled = 0
}
inline commit() {
  d_step {
    committed = committed | BIT(me);
    if
    :: TOUCHES(kind[me]) && !EXTENDS(kind[me]) -> gone = true
    :: EXTENDS(kind[me]) -> current = me + 1
    :: else
    fi;
    if :: MUST_BE_COVERED(kind[me]) || guarded || !plain -> claim() :: else fi;
    watch()
  }
}
inline roll_back() {
  d_step {
    aborted = aborted | BIT(me);
    if :: touched != NOBODY -> deleter[touched] = NOBODY :: else fi
  }
}

#ifdef CLOCK_BEFORE_LOCK
#define JUDGE_BEFORE_LOCK judge()
#define JUDGE_BEFORE_COUNT skip
#define JUDGE skip
#else
#define JUDGE_BEFORE_LOCK skip
#ifdef CLOCK_BEFORE_COUNT
#define JUDGE_BEFORE_COUNT judge()
#define JUDGE skip
#else
#define JUDGE_BEFORE_COUNT skip
#define JUDGE judge()
#endif
#endif

#ifdef GROWTH
#define PLACE , place
#else
#define PLACE
#endif

proctype Transaction(byte me) {
  byte mode, v, page, touched, decided, seen_lost;
  short seen_charged, lowest, settled, margin, seen_limit;
  bool guarded, covered, has_expired, detached, late, begun_anew PLACE;
#ifdef PLACE_BEFORE_ROWS
  TAKE_PLACE;
#endif

  /* The calls, READ COMMITTED: who deletes or extends waits for whoever does, and then finds the newest version. */
  touched = NOBODY;
#ifdef RESTARTED
  if
  :: me == 0 -> if :: TOUCHES(kind[me]) -> touched = 0 :: else fi; goto end_prepared
  :: else
  fi;
#endif
  if
  :: TOUCHES(kind[me]) ->
     atomic {
       gone || deleter[current] == NOBODY ->
       if
       :: gone -> aborted = aborted | BIT(me); goto released
       :: else ->
          touched = current; deleter[touched] = me;
          if :: EXTENDS(kind[me]) -> versions = versions | BIT(me + 1) :: else fi;
          captures_first[me] = (touched == 0)
       fi
     }
  :: else
  fi;
  if :: MAKES_HOLD(kind[me]) && !EXTENDS(kind[me]) -> versions = versions | BIT(me + 1) :: else fi;
  if :: USAGE(me) != 0 || GRANTED(me) != 0 -> inserted = inserted | BIT(me) :: else fi;
#ifdef LOST_COUNTS
  if :: detached = true :: skip fi;
#endif
  if
  :: roll_back(); goto released
#ifdef PREPARE
  :: MAY_BE_PREPARED(kind[me]) -> goto prepared
#endif
  :: skip
  fi;
#ifdef LIMIT_BEFORE_LOCK
  seen_limit = overdraft_limit;
#endif
anew:
  JUDGE_BEFORE_LOCK;
#ifdef COUNT_BEFORE_LOCK
  count();
#endif
#ifdef PLACE_BEFORE_LOCK
  TAKE_PLACE;
#endif
  lock_share();
#ifdef LOST_COUNTS
  seen_lost = lost;
#endif
#if !defined(PLACE_BEFORE_ROWS) && !defined(PLACE_BEFORE_LOCK)
  TAKE_PLACE;
#endif
  JUDGE_BEFORE_COUNT;
#ifdef COUNT_AFTER_CHECK
  seen_charged = charged + CHARGED;
#else
#ifndef COUNT_BEFORE_LOCK
#ifdef COUNTED_ONCE
  if :: !begun_anew -> count() :: else fi;
#else
  count();
#endif
#endif
#endif
  JUDGE;
#ifndef LIMIT_BEFORE_LOCK
  seen_limit = overdraft_limit;
#endif
  assess();
#ifdef COUNT_AFTER_CHECK
  d_step { charged = charged + CHARGED; decided = committed };
#endif
#ifdef BEGIN_ANEW
  if
  :: !begun_anew -> begun_anew = true; unlock(); lowest = 0; settled = 0; guarded = false; covered = false; has_expired = false; goto anew
  :: skip
  fi;
#endif
#ifdef DOUBT
  if
  :: covered = false; late = false            /* another user of the stripe is in doubt */
#ifdef COVERED_ONCE
     ; if :: guarded -> guarded = false :: else fi
#endif
  :: skip
  fi;
#endif
  if
  :: covered
  :: else ->
     unlock();
     lock_exclusive();
     decide();
     if :: !covered -> roll_back(); goto released :: else fi
  fi;
  if :: commit() :: roll_back() fi;
#ifdef PREPARE
  goto released;
prepared:
  page = 0;
#ifdef LOST_COUNTS
  seen_lost = lost;
#endif
  TAKE_PLACE;
#ifndef NO_COUNT_OF_PREPARED
  count();
#endif
  guarded = false;
end_prepared:
  page = 0;
  if :: commit() :: roll_back() fi;
#endif
released:
  page = 0;
  unlock();
#ifdef PUBLISH_LATE
  if :: late -> publish() :: else fi;
#endif
  d_step {
    v = 0; page = 0; touched = 0; decided = 0; seen_lost = 0; seen_charged = 0; lowest = 0; settled = 0; margin = 0; seen_limit = 0;
    guarded = false; covered = false; has_expired = false; detached = false; late = false; begun_anew = false;
#ifdef GROWTH
    place = false;
#endif
    ended++
  }
}

#ifdef GROWTH
/* A session that makes shared memory larger. */
proctype Grower() { grown = true }
#endif

#ifdef LIMIT_AFTER
/* Changes the limit: settles the account under EXCLUSIVE, and voids the headroom before it commits. */
proctype Changer(byte me) {
  byte mode; bool detached PLACE;
#ifdef PLACE_BEFORE_LOCK_OF_CHANGE
  TAKE_PLACE;
#endif
#ifdef LOST_COUNTS
  if :: detached = true :: skip fi;
#endif
#ifdef CHANGE_SHARED
  atomic { !exclusive -> sharers++; mode = SHARE };
#else
  atomic { sharers == 0 && !exclusive -> exclusive = true; mode = EXCLUSIVE };
#endif
#ifndef PLACE_BEFORE_LOCK_OF_CHANGE
  TAKE_PLACE;
#endif
#if !defined(NO_VOID) && !defined(VOID_LATE)
  if
  :: !detached -> covered_until = 0
#ifndef NO_RECORD_BY_CHANGER
  :: detached -> lost++
#else
  :: detached
#endif
  fi;
#endif
  if :: overdraft_limit = LIMIT_AFTER :: skip fi;
  unlock();
#ifdef VOID_LATE
  covered_until = 0;
#endif
  d_step { detached = false; ended++ }
}
#endif

#ifdef REDACTION
/* Redacts the account: a new version of the hold, with the same index entry or another; the stripe exclusively. */
proctype Redactor(byte me) {
  byte mode; byte touched = NOBODY;
#ifdef STRIPE_BEFORE_HOLDS
  atomic { sharers == 0 && !exclusive -> exclusive = true; mode = EXCLUSIVE };
#endif
  atomic { gone || deleter[current] == NOBODY -> if :: !gone -> touched = current; deleter[touched] = me :: else fi };
#ifndef STRIPE_BEFORE_HOLDS
#ifdef REDACTION_WITHOUT_STRIPE
  skip;
#else
  atomic { sharers == 0 && !exclusive -> exclusive = true; mode = EXCLUSIVE };
#endif
#endif
  skip;
  d_step { if :: touched != NOBODY -> deleter[touched] = NOBODY :: else fi };
  unlock();
  d_step { touched = 0; ended++ }
}
#endif

#ifdef EXPIRES
proctype Clock() { expired = true }
#endif

init {
  byte i, v;
  short sum;
#ifdef GROWTH
  bool place;
#endif
  d_step {
    do :: i < VERSIONS -> deleter[i] = NOBODY; i++ :: else -> i = 0; break od
  };
  do
  :: i < TRANSACTIONS ->
     if KINDS fi;
#ifdef RESTARTED
     if :: i == 0 -> if PREPARED_KINDS fi :: else fi;
#endif
     if AMOUNTS fi;
     i++
  :: else -> break
  od;
#ifdef RESTARTED
  i = 0;
  d_step {
    if :: TOUCHES(kind[0]) -> deleter[0] = 0; captures_first[0] = true :: else fi;
    if :: kind[0] == PUT || kind[0] == MOVE -> versions = versions | BIT(1) :: else fi;
    if :: USAGE(0) != 0 || GRANTED(0) != 0 -> inserted = BIT(0) :: else fi
  };
#ifdef KEPT_HEADROOM
  covered_until = BALANCE - HOLD + LIMIT;
#endif
#else
  /* As an earlier settlement has published it, or not. */
  if :: BALANCE - HOLD + LIMIT > 0 -> covered_until = BALANCE - HOLD + LIMIT :: skip fi;
#endif
  i = 0;
  d_step {
    do
    :: i < TRANSACTIONS ->
       plain = plain || kind[i] == USE || kind[i] == PUT || (kind[i] == CAPTURE && amount[i] > HOLD);
#ifdef EXPIRES
       plain = plain || kind[i] == CAPTURE || kind[i] == MOVE;
#endif
       i++
    :: else -> break
    od;
#ifdef LIMIT_AFTER
    plain = true;
#endif
    skip
  };
  i = 0;
  atomic {
    do
    :: i < TRANSACTIONS -> run Transaction(i); i++
    :: else -> i = 0; break
    od;
#ifdef LIMIT_AFTER
    run Changer(CHANGER);
#endif
#ifdef REDACTION
    run Redactor(REDACTOR);
#endif
#ifdef EXPIRES
    run Clock();
#endif
#ifdef GROWTH
    run Grower();
#endif
  };
  ended == TRANSACTIONS + CHANGERS + REDACTORS;
  d_step {
    sum_available(sum, committed, expired);
    TAKE_PLACE;
    unsound = name == lost && charged < covered_until && sum - (covered_until - charged - 1) < -overdraft_limit;
    assert(!unsound)
  }
}
