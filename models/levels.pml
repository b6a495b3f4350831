/* Levels: settlement of an account with several boundaries, as src/engine/settlement carries it out with crates/ledger/src/crossing.rs
   and segment/headroom.rs, for spin. README.md in this folder says what is abstracted; settlement.pml has several users and stripes,
   refreshes, operators, restarts and lost counts, holds.pml what must be covered.

   One account. TRANSACTIONS insert at most one row each (TWO_ROWS: two), roll back or settle, then commit or fail. The first CHANGERS of
   them change the account's boundaries as well. Every schedule and every choice of amounts is explored. Claims:

   - missed:     when all have ended, the side last announced of every boundary is that of the committed balance
   - doubled:    a notification never announces the side of a boundary that was announced before
   - lost_flip:  when all have ended, the level in the checkpoint is the one last announced, of the boundaries in spending_limits
   - unreal:     what a settlement decides on is on a level that the account was on, with the own rows, while it held the stripe
   - unsound:    whenever something commits, and when all have ended: while both counts are below their words, the balance is on the level
                 in the checkpoint, and so it is whatever commits that takes neither count to its word
   - and no deadlock: every session ends.

   PREPARE lets transactions be prepared, LOST_COUNTS lets sessions be unable to count, FORCE lets them ask for a refresh, which reads
   spending_limits anew, NEW has an account without a checkpoint, of which nothing is claimed until something has committed. All other flags
   remove or change one part of the protocol. Each must be found wrong: see the script `check`. */

#ifndef TRANSACTIONS
#define TRANSACTIONS 2
#endif
#ifndef CHANGERS
#define CHANGERS 0
#endif
#ifndef FROM            /* the balance before, FROM to TO: rows committed long ago, covered */
#define FROM 4
#endif
#ifndef TO
#define TO FROM
#endif
#ifndef AMOUNTS         /* a row is one of these; 0: no row */
#define AMOUNTS :: amount[i] = -3 :: amount[i] = 2
#endif

/* The balances that can be boundaries, ascending. Sets of them are sets of bits. */
#ifndef LOWEST
#define LOWEST -4
#endif
#define ZERO 1
#ifndef MIDDLE
#define MIDDLE 3
#endif
#ifndef HIGHEST
#define HIGHEST 6
#endif
#define ALL 15
#ifndef BOUNDARIES      /* of the account at first, zero among them: 2 */
#define BOUNDARIES 6
#endif
#ifndef AFTER           /* as the first changer has them, */
#define AFTER 10
#endif
#ifndef AFTERWARDS      /* and the second */
#define AFTERWARDS BOUNDARIES
#endif
#define FAR 100         /* where there is no boundary */

#define NOBODY 255
#define BIT(n) (1 << (n))
#define HAS(set, n) (((set) >> (n)) & 1)
/* The boundaries that a balance is above, and how many. At a boundary is below it. */
#define SIDES(balance) \
  (((balance) > LOWEST -> 1 : 0) + ((balance) > 0 -> 2 : 0) + ((balance) > MIDDLE -> 4 : 0) + ((balance) > HIGHEST -> 8 : 0))
#define LEVEL(balance) \
  (((balance) > LOWEST -> 1 : 0) + ((balance) > 0 -> 1 : 0) + ((balance) > MIDDLE -> 1 : 0) + ((balance) > HIGHEST -> 1 : 0))
/* Announced::nearest: the highest of the boundaries in a set, the lowest. */
#define NEAREST_BELOW(set) (HAS(set, 3) -> HIGHEST : (HAS(set, 2) -> MIDDLE : (HAS(set, 1) -> 0 : (HAS(set, 0) -> LOWEST : -FAR))))
#define NEAREST_ABOVE(set) (HAS(set, 0) -> LOWEST : (HAS(set, 1) -> 0 : (HAS(set, 2) -> MIDDLE : (HAS(set, 3) -> HIGHEST : FAR))))

/* What a scan visits: the rows of one transaction after the other. */
#ifdef TWO_ROWS
#define VISITS (2 * TRANSACTIONS)
#define MAKER(visit) ((visit) / 2)
#define ROW(visit) ((visit) % 2 == 0 -> amount[MAKER(visit)] + 3 : -3)
#define CHARGED(t) (amount[t] == 0 -> 0 : (amount[t] + 3 < 0 -> -amount[t] : 3))
#define GRANTED(t) (amount[t] != 0 && amount[t] + 3 > 0 -> amount[t] + 3 : 0)
#else
#define VISITS TRANSACTIONS
#define MAKER(visit) (visit)
#define ROW(visit) amount[visit]
#define CHARGED(t) (amount[t] < 0 -> -amount[t] : 0)
#define GRANTED(t) (amount[t] > 0 -> amount[t] : 0)
#endif
#define CHANGES(t) ((t) < CHANGERS)
#define CHANGED_TO(t) ((t) == 0 -> AFTER : AFTERWARDS)

/* The ledger: sets of transactions whose rows are inserted, and the outcomes. `balance` is the committed balance. */
short amount[TRANSACTIONS];
short balance;
byte  inserted, committed, aborted;

/* The account's row of spending_limits as committed, and who has changed it and not ended. */
byte  limits = BOUNDARIES;
byte  changer = NOBODY;

/* The checkpoint row: the boundaries, and those that the balance was announced to be above. */
bool  exists;
byte  boundaries, sides;

/* What listeners have been notified of last, and of which boundaries at all. Who sets a boundary knows where the balance is; an account
   that nothing has been said of is taken for one with a balance of zero. */
byte  announced, named;

/* The stripe. */
byte  sharers;
bool  exclusive;
byte  deciding = NOBODY;
byte  was;                              /* the levels that the balance has been on since, with the rows of who has it exclusively */

/* Shared memory: what has been charged and granted, and until when headroom lasts. */
short charged, granted, charged_until, granted_until;
#ifdef LOST_COUNTS
/* How many counts were lost, and the name that the words were published under: how many were lost by then. */
byte  lost, name;
#define IS_NAMED (name == lost)
#else
#define IS_NAMED true
#endif

bool  missed, doubled, lost_flip, unreal, unsound;
byte  ended;

#define UNLOCKED 0
#define SHARE 1
#define EXCLUSIVE 2

inline lock_share() { atomic { !exclusive -> sharers++; mode = SHARE } }
inline lock_exclusive() {
  atomic {
    sharers == 0 && !exclusive -> exclusive = true; mode = EXCLUSIVE; deciding = me;
#ifdef PREPARE
    was = BIT(LEVEL(balance + amount[me]))
#endif
  }
}
inline unlock() {
  d_step {
    if
    :: mode == SHARE -> sharers--
    :: mode == EXCLUSIVE -> exclusive = false; deciding = NOBODY; was = 0
    :: else
    fi;
    mode = UNLOCKED
  }
}

/* The own charges and grants, one count after the other. */
inline count() {
#ifdef LOST_COUNTS
  seen_lost = lost;
#endif
  if
#ifdef LOST_COUNTS
  :: detached ->
#ifndef NO_RECORD_OF_LOST
     if :: CHARGED(me) != 0 || GRANTED(me) != 0 -> lost++ :: else fi
#endif
     skip
  :: !detached && CHARGED(me) != 0 && GRANTED(me) != 0 ->
#else
  :: CHARGED(me) != 0 && GRANTED(me) != 0 ->
#endif
     charged = charged + CHARGED(me); seen_charged = charged;
#ifdef GRANTS_NOT_COUNTED
     seen_granted = granted
#else
     d_step { granted = granted + GRANTED(me); seen_granted = granted }
#endif
  :: else ->
     d_step {
       charged = charged + CHARGED(me); seen_charged = charged;
#ifndef GRANTS_NOT_COUNTED
       granted = granted + GRANTED(me);
#endif
       seen_granted = granted
     }
  fi
}

/* Headroom::suffices. */
#ifdef LOST_COUNTS
#ifdef NO_NAME_BY_LOST
#define MAY_USE (!detached)
#else
#define MAY_USE (!detached && name == seen_lost)
#endif
#else
#define MAY_USE true
#endif
#ifdef ONE_SIDED
#define SUFFICES (MAY_USE && charged_until > 0 && (CHARGED(me) == 0 || seen_charged < charged_until) && (GRANTED(me) == 0 || seen_granted < granted_until))
#else
#define SUFFICES (MAY_USE && seen_charged < charged_until && seen_granted < granted_until)
#endif

inline read_checkpoint() { d_step { seen_boundaries = boundaries; seen_sides = sides; seen_exists = exists } }

/* The dirty scan: row by row, those in flight by their sign. */
inline scan_dirty() {
  d_step { settled = base; lowest = base; highest = base; v = 0 };
  do
  :: v < VISITS ->
     d_step {
       if
       :: HAS(inserted, MAKER(v)) && !HAS(aborted, MAKER(v)) ->
          if
          :: MAKER(v) == me || HAS(committed, MAKER(v)) -> settled = settled + ROW(v); lowest = lowest + ROW(v); highest = highest + ROW(v)
          :: else -> if :: ROW(v) < 0 -> lowest = lowest + ROW(v) :: else -> highest = highest + ROW(v) fi
          fi
       :: else
       fi;
       v++
     }
  :: else -> break
  od;
  v = 0
}

#ifdef OWN_GRANTS_LEFT
#define OWN_GRANTS 0
#else
#define OWN_GRANTS GRANTED(me)
#endif
#ifdef OWN_CHARGES_LEFT
#define OWN_CHARGES 0
#else
#define OWN_CHARGES CHARGED(me)
#endif

/* Headroom::left_by: how far it is to the next boundaries of a level. What the own transaction has written may roll back. */
inline measure(own_boundaries, own_sides) {
  down = lowest - (NEAREST_BELOW((own_sides) & (own_boundaries))) - OWN_GRANTS;
  up = (NEAREST_ABOVE((own_boundaries) & ~(own_sides))) - highest - OWN_CHARGES
}
/* HeadroomSlots::publish: both words are replaced, or none if one side has no room. Another backend that writes makes it give up. */
inline publish() {
  d_step {
    if
#ifdef LOST_COUNTS
    :: detached
    :: !detached && down > 0 && up > 0 ->
#ifdef NAME_AFTER_PASS
       name = lost;
#else
       name = seen_lost;
#endif
#else
    :: down > 0 && up > 0 ->
#endif
#ifdef MERGED
       if :: seen_charged + down > charged_until -> charged_until = seen_charged + down :: else fi;
       if :: seen_granted + up > granted_until -> granted_until = seen_granted + up :: else fi
#else
       charged_until = seen_charged + down; granted_until = seen_granted + up
#endif
    :: else
    fi
  }
}
/* While neither count has reached its word, the balance is on the level in the checkpoint, with all that may be charged and granted yet. */
inline check_words() {
  if
  :: IS_NAMED && charged < charged_until && granted < granted_until ->
     unsound = (SIDES(balance - (charged_until - charged - 1)) & boundaries) != sides ||
               (SIDES(balance + (granted_until - granted - 1)) & boundaries) != sides;
     assert(!unsound)
  :: else
  fi
}

/* Under SHARE: whether the balance stays on the announced level whatever becomes of the rows in flight. */
inline assess() {
  if
  :: SUFFICES -> agrees = true
  :: else ->
#ifndef CHECKPOINT_BEFORE_LOCK
     read_checkpoint();
#endif
     scan_dirty();
     d_step {
       agrees = seen_exists && (SIDES(lowest) & seen_boundaries) == seen_sides && (SIDES(highest) & seen_boundaries) == seen_sides;
       if :: agrees -> measure(seen_boundaries, seen_sides) :: else fi
     };
     if
#ifdef PUBLISH_LATE
     :: agrees -> late = true
#else
     :: agrees -> publish()
     :: agrees                          /* it gave up */
#endif
     :: else
     fi
  fi;
  d_step { settled = 0; if :: !late -> lowest = 0; highest = 0; down = 0; up = 0; seen_boundaries = 0; seen_sides = 0; seen_exists = 0 :: else fi }
}

/* Under EXCLUSIVE: committed rows and the own ones, on one snapshot, which has the checkpoint and spending_limits, too. */
inline decide() {
#ifdef DIRTY_DECISION
  scan_dirty();
  d_step {
    before = settled - amount[me];
#else
  d_step {
    before = balance; settled = balance + amount[me];
#endif
    now_above = SIDES(settled);
#ifdef PREPARE
    unreal = !HAS(was, LEVEL(settled)); assert(!unreal);
#endif
    /* Read anew where there is no checkpoint, or where the transaction asks for it. */
    if
    :: CHANGES(me) -> next_boundaries = CHANGED_TO(me)
#ifdef LIMITS_BEFORE_LOCK
    :: !CHANGES(me) && forced -> next_boundaries = seen_limits
#else
    :: !CHANGES(me) && forced -> next_boundaries = limits
#endif
    :: !CHANGES(me) && !forced -> next_boundaries = (exists -> boundaries : limits)
    fi;
    /* announced_before, and the crossings from there: boundaries that are new are silent, but for those of a checkpoint that is made. */
    if
    :: exists -> crossings = (sides ^ now_above) & boundaries & next_boundaries; silent = next_boundaries & ~boundaries
    :: else ->
#ifdef NAMED_BY_ROWS
       crossings = SIDES(before);
#else
       /* unannounced_side: that of an account without rows, or, where the balance is there again, that of the rows before. */
       crossings = (SIDES(0) & (now_above ^ SIDES(0))) | (SIDES(before) & ~(now_above ^ SIDES(0)));
#endif
       silent = (CHANGES(me) -> next_boundaries & ~BIT(ZERO) : 0);
       crossings = (crossings ^ now_above) & next_boundaries & ~silent
    fi;
#ifdef STAYING_SILENT
    if :: CHANGES(me) -> silent = silent | crossings; crossings = 0 :: else fi;
#endif
#ifdef ONE_CROSSING
    if
    :: (crossings & now_above) != 0 -> crossings = (crossings & 1 -> 1 : (crossings & 2 -> 2 : (crossings & 4 -> 4 : crossings & 8)))
    :: else -> crossings = (crossings & 8 -> 8 : (crossings & 4 -> 4 : (crossings & 2 -> 2 : crossings & 1)))
    fi;
#endif
    writes = !exists || crossings != 0 || next_boundaries != boundaries;
#if !defined(NO_VOID) && !defined(VOID_LATE)
#ifdef LOST_COUNTS
    if
    :: (!exists || next_boundaries != boundaries) && !detached -> charged_until = 0; granted_until = 0
#ifndef NO_RECORD_BY_CHANGER
    :: (!exists || next_boundaries != boundaries) && detached -> lost++
#endif
    :: else
    fi;
#else
    if :: !exists || next_boundaries != boundaries -> charged_until = 0; granted_until = 0 :: else fi;
#endif
#endif
    before = 0
  };
#ifdef PUBLISH_BY_DECISION
  scan_dirty();
  if
  :: (SIDES(lowest) & next_boundaries) == (now_above & next_boundaries) && (SIDES(highest) & next_boundaries) == (now_above & next_boundaries) ->
     measure(next_boundaries, now_above & next_boundaries); publish()
  :: else
  fi;
#endif
  d_step { settled = 0; lowest = 0; highest = 0; down = 0; up = 0 }
}

inline commit() {
  d_step {
    committed = committed | BIT(me); balance = balance + (HAS(inserted, me) -> amount[me] : 0);
    if :: CHANGES(me) -> limits = CHANGED_TO(me); changer = NOBODY :: else fi;
    if
    :: writes ->
       doubled = (crossings & named & ~(announced ^ now_above)) != 0; assert(!doubled);
#ifdef STAYING_SILENT
       silent = silent & ~boundaries;
#endif
       named = named | crossings | silent;
       announced = (announced & ~(crossings | silent)) | (now_above & (crossings | silent));
#ifdef ONE_CROSSING
       sides = ((exists -> sides : 0) ^ crossings) & boundaries & next_boundaries | (now_above & next_boundaries & ~boundaries);
#else
       sides = now_above & next_boundaries;
#endif
       boundaries = next_boundaries; exists = true
    :: else
    fi;
#ifdef PREPARE
    if :: deciding != NOBODY && deciding != me -> was = was | BIT(LEVEL(balance + amount[deciding])) :: else fi;
#endif
    check_words()
  }
}
inline roll_back() {
  d_step { aborted = aborted | BIT(me); if :: changer == me -> changer = NOBODY :: else fi }
}

proctype Transaction(byte me; short base) {
  byte  mode, v, seen_boundaries, seen_sides, next_boundaries, now_above, crossings, silent, seen_limits;
  short seen_charged, seen_granted, settled, lowest, highest, before, down, up;
  bool  seen_exists, agrees, writes, forced, late;
#ifdef LOST_COUNTS
  byte  seen_lost;
  bool  detached;
#endif

  /* The calls. Who changes the row of spending_limits waits for whoever has. */
  if :: amount[me] != 0 -> inserted = inserted | BIT(me) :: else fi;
  if :: CHANGES(me) -> atomic { changer == NOBODY -> changer = me } :: else fi;
  if :: amount[me] == 0 && !CHANGES(me) -> committed = committed | BIT(me); goto released :: else fi;
#ifdef LOST_COUNTS
  if :: detached = true :: skip fi;
#endif
  if
  :: roll_back(); goto released
#ifdef PREPARE
  :: !CHANGES(me) ->
#ifndef PREPARED_NOT_COUNTED
     count();
     d_step {
       seen_charged = 0; seen_granted = 0;
#ifdef LOST_COUNTS
       seen_lost = 0;
#endif
       skip
     };
#endif
     goto prepared
#endif
#ifdef FORCE
  :: forced = true
#endif
  :: skip
  fi;
#ifdef CHECKPOINT_BEFORE_LOCK
  read_checkpoint();
#endif
#ifdef LIMITS_BEFORE_LOCK
  if :: forced -> seen_limits = limits :: else fi;
#endif
  if
  :: CHANGES(me) || forced ->
#ifdef CHANGE_SHARED
     if :: CHANGES(me) -> lock_share() :: else -> lock_exclusive() fi;
#else
     lock_exclusive();
#endif
     count();
     decide()
  :: else ->
     lock_share();
     count();
     assess();
     if
     :: agrees
     :: else -> unlock(); lock_exclusive(); decide()
     fi
  fi;
prepared:
  v = 0;
  if :: commit() :: roll_back() fi;
released:
  v = 0;
  unlock();
#ifdef VOID_LATE
  if :: CHANGES(me) && writes -> charged_until = 0; granted_until = 0 :: else fi;
#endif
#ifdef PUBLISH_LATE
  if :: late -> publish() :: else fi;
#endif
  d_step {
    v = 0; seen_boundaries = 0; seen_sides = 0; next_boundaries = 0; now_above = 0; crossings = 0; silent = 0; seen_limits = 0;
    seen_charged = 0; seen_granted = 0; settled = 0; lowest = 0; highest = 0; before = 0; down = 0; up = 0;
    seen_exists = false; agrees = false; writes = false; forced = false; late = false;
#ifdef LOST_COUNTS
    seen_lost = 0; detached = false;
#endif
    ended++
  }
}

init {
  byte i;
  balance = FROM;
  do :: balance < TO -> balance++ :: break od;
  i = 0;
#ifdef NEW
  announced = SIDES(0);
#else
  d_step {
    exists = true; boundaries = BOUNDARIES; sides = SIDES(balance) & BOUNDARIES; announced = sides; named = ALL;
    /* As an earlier settlement has published it, */
    charged_until = balance - (NEAREST_BELOW(sides)); granted_until = (NEAREST_ABOVE(BOUNDARIES & ~sides)) - balance
  };
  if
  :: charged_until > 0 && granted_until > 0
  :: charged_until = 0; granted_until = 0       /* or not */
  fi;
#endif
  do :: i < TRANSACTIONS -> if AMOUNTS fi; i++ :: else -> break od;
  i = 0;
  atomic {
    do :: i < TRANSACTIONS -> run Transaction(i, balance); i++ :: else -> break od;
    i = 0
  };
  ended == TRANSACTIONS;
  d_step {
#ifndef PREPARE
    missed = (exists || (inserted & committed) != 0) && ((announced ^ SIDES(balance)) & limits) != 0; assert(!missed);
#endif
    lost_flip = exists && (boundaries != limits || sides != (announced & boundaries)); assert(!lost_flip);
    check_words()
  }
}
