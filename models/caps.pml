/* Spend caps: what some keys of an account spend in a window, for spin. README.md in this folder says what is abstracted; settlement.pml has
   the crossings of zero, the stripes and the checkpoints, levels.pml the other boundaries, holds.pml the limit.

   One account, one cap, TRANSACTIONS that spend. The first CHANGERS of them change the cap, too. Time has three days. The clock goes from
   the first to LAST_DAY at any moments. A row is dated on any of DATES; one that is charged or captured, on the day of its insertion. Every
   schedule and every choice of KINDS and AMOUNTS is explored. Claims:

   - missed:     when all have ended, what listeners were told is what the cap is in the current window, if somebody has settled in that
                 window. And what they were told of it is never reached while it is not
   - doubled:    reached is announced once in a window, unless open was since; open is announced only of a cap that was announced reached
   - unreal:     a decision announces what was so at some moment while it had the stripe
   - unsound:    whenever something commits, the clock goes on, or all have ended: while the count of charges is below charged_until, the cap
                 is not reached in any window from the current one on, from the next one on if it was announced in the current one,
                 with all that may be charged yet, whenever that is dated. While it is below covered_until, an enforced cap is not exceeded
   - overspent:  when a transaction with guarded rows commits, what was spent in the window that was current for it, and what is held, do not
                 exceed the cap; plain usage, what captures take beyond their hold, and what was covered in a later window, is left
                 aside if it committed after its decision
   - refused:    a transaction is refused only if it has guarded rows, and what had committed and its own rows exceeded the cap at some moment
                 while it had the stripe
   - and no deadlock: every session ends.

   PREPARE lets transactions be prepared that may be; then what the last of them makes of the cap is announced by the next settlement. FOLD
   lets commits fold what has committed into the daily totals. CLOCK_BACK lets the clock go back by a day, once, perhaps for good; then
   nothing is claimed to be announced at the end, nor of windows that were over. FORCE lets a settlement decide though the cap is in no
   doubt. ENFORCED has a cap that is enforced, and holds. All other flags remove or change one part. Each must be found wrong: see the
   script `check`. */

#ifndef TRANSACTIONS
#define TRANSACTIONS 2
#endif
#ifndef CHANGERS
#define CHANGERS 0
#endif
#ifndef LAST_DAY
#define LAST_DAY 2
#endif
#ifndef AMOUNTS                 /* what a transaction spends, holds or captures; 0: nothing */
#define AMOUNTS :: amount[i] = 3
#endif
#ifndef DATES                   /* when plain usage is dated */
#define DATES :: date[i] = 1 :: date[i] = 2
#endif
#ifndef KINDS
#define KINDS :: kind[i] = USE
#endif
#ifndef SPENT1                  /* what was spent and folded long ago, by day */
#define SPENT1 0
#endif
#ifndef SPENT2
#define SPENT2 0
#endif

/* The cap as it is at first, as the first changer has it, and the second: how much, for how long, since when. NONE is no cap. */
#define NONE 0
#define DAILY 1
#define LONGER 2                /* the first two days, then the third */
#define ENDLESS 3
#ifndef CAP
#define CAP 5
#endif
#ifndef PERIOD
#define PERIOD DAILY
#endif
#ifndef SINCE
#define SINCE 0
#endif
#ifndef CAP_AFTER
#define CAP_AFTER 3
#endif
#ifndef PERIOD_AFTER
#define PERIOD_AFTER PERIOD
#endif
#ifndef SINCE_AFTER
#define SINCE_AFTER 0
#endif
#ifndef CAP_AFTERWARDS
#define CAP_AFTERWARDS CAP
#endif
#ifndef PERIOD_AFTERWARDS
#define PERIOD_AFTERWARDS PERIOD
#endif

#define FAR 100
#define NOBODY 255
#define BIT(n) (1 << (n))
#define HAS(set, n) (((set) >> (n)) & 1)

#define AMOUNT_OF(c) ((c) == 0 -> CAP : ((c) == 1 -> CAP_AFTER : CAP_AFTERWARDS))
#define PERIOD_OF(c) ((c) == 0 -> PERIOD : ((c) == 1 -> PERIOD_AFTER : PERIOD_AFTERWARDS))
#define SINCE_OF(c) ((c) == 0 -> SINCE : ((c) == 1 -> SINCE_AFTER : 0))
#define IS_THERE(c) (PERIOD_OF(c) != NONE)

/* Period::start, Period::end: the window of a day. Without a period it ends with the end of time. */
#define FOREVER 7
#define START(c, day) (PERIOD_OF(c) == DAILY -> (day) : (PERIOD_OF(c) == LONGER && (day) >= 3 -> 3 : 0))
#define END(c, day) (PERIOD_OF(c) == DAILY -> (day) + 1 : (PERIOD_OF(c) == LONGER -> ((day) < 3 -> 3 : 4) : FOREVER))
#define COUNTS(c, day, dated) ((dated) >= SINCE_OF(c) && (dated) >= START(c, day) && (dated) < END(c, day))
/* What was spent by day, as a cap has it in the window of a day. */
#define IN_WINDOW(by_day, c, day) \
  ((COUNTS(c, day, 1) -> by_day[1] : 0) + (COUNTS(c, day, 2) -> by_day[2] : 0) + (COUNTS(c, day, 3) -> by_day[3] : 0))
#define MOST(one, other) ((one) > (other) -> (one) : (other))

/* What a transaction does. Guarded: */
#define CHARGE 1                /* charges */
#define MAKE 2                  /* makes a hold */
/* Not guarded: */
#define USE 3                   /* inserts usage */
#define CAPTURE 4               /* captures the hold that is there */
#define EXTEND 5                /* extends it, before it expires */
#define RELEASE 6               /* releases it */

#define IS_GUARDED(k) ((k) <= MAKE)
#define SPENDS(k) ((k) == CHARGE || (k) == USE || (k) == CAPTURE)
#define IS_DATED_NOW(k) ((k) == CHARGE || (k) == CAPTURE)
#define TOUCHES(k) ((k) >= CAPTURE)
#define MAY_BE_PREPARED(t) ((t) >= CHANGERS && !IS_GUARDED(kind[t]) && kind[t] != EXTEND)
#define CHANGES(t) ((t) < CHANGERS)
#define SPENT(t) (SPENDS(kind[t]) -> amount[t] : 0)

#ifndef HOLD                    /* the amount of the hold that is there at first; 0: none */
#define HOLD 0
#endif

byte  kind[TRANSACTIONS], date[TRANSACTIONS];
short amount[TRANSACTIONS];
byte  now = 1, latest = 1;

/* The ledger: sets of transactions whose row is inserted, and the outcomes. */
byte  inserted, committed, aborted;
/* Those whose rows the checkpoint covers: their usage is in the daily totals. */
byte  folded;
bool  refresh_lock;

/* Holds are versions of rows: 0 is the one that is there at first, t + 1 what transaction t has made or extended. */
#define VERSIONS (TRANSACTIONS + 1)
#ifdef ENFORCED
byte  versions = 1;
byte  deleter[VERSIONS];
byte  current;
bool  gone;
#define HELD(v) ((v) == 0 -> HOLD : (kind[(v) - 1] == EXTEND -> HOLD : amount[(v) - 1]))
#define DELETED(v) (deleter[v] != NOBODY && HAS(committed, deleter[v]))
#endif

/* The row of spend_caps as committed, and who has changed it and not ended. */
byte  cap;
byte  changer = NOBODY;

/* The checkpoint: until when the cap was announced to be reached; 0: it was not. */
byte  reached_until;

/* What listeners were told last, and the windows that they were told to be reached, by their ends. */
byte  told, ever;

/* The stripe, and since it was taken exclusively: the windows, by their ends, that were current and reached, and whether one was not. */
byte  sharers;
bool  exclusive;
byte  deciding = NOBODY;
byte  was_reached;
bool  was_open, was_short;

/* Shared memory. */
short charged, charged_until, covered_until;

bool  missed, doubled, unreal, unsound, overspent, refused;
byte  covered_on[TRANSACTIONS];       /* the day on which a transaction has seen itself covered */
byte  last_settled;             /* the latest day on which somebody has settled who committed */
byte  ended;
short sums[4];                  /* for the claims */
short sum_held;

#define UNLOCKED 0
#define SHARE 1
#define EXCLUSIVE 2

/* What these transactions have spent, by day, and what they hold. */
inline sum_up(done) {
  sums[1] = SPENT1; sums[2] = SPENT2; sums[3] = 0; sum_held = 0; v = 0;
  do
  :: v < TRANSACTIONS ->
     if
     :: HAS(done, v) && HAS(inserted, v) && date[v] > 0 -> sums[date[v]] = sums[date[v]] + SPENT(v)
     :: else
     fi;
     v++
  :: else -> break
  od;
  v = 0;
#ifdef ENFORCED
  do
  :: v < VERSIONS ->
     if
     :: HAS(versions, v) && (v == 0 || HAS(done, v - 1)) && !(deleter[v] != NOBODY && HAS(done, deleter[v])) -> sum_held = sum_held + HELD(v)
     :: else
     fi;
     v++
  :: else -> break
  od;
  v = 0
#else
  skip
#endif
}

/* The cap as it is for a transaction that decides. */
#define CAP_OF(t) (CHANGES(t) -> (t) + 1 : cap)
/* What the transaction charges that is dated outside the window: it counts all the same. */
#define ELSEWHERE(t, c, day) (kind[t] == CHARGE && HAS(inserted, t) && !COUNTS(c, day, date[t]) -> amount[t] : 0)

inline clear_sums() { sums[1] = 0; sums[2] = 0; sums[3] = 0; sum_held = 0 }
/* While a session has the stripe to itself: what is so at this moment of what has committed and its own rows. */
inline watch() {
  if
  :: deciding != NOBODY ->
     sum_up(committed | BIT(deciding));
     if
     :: IS_THERE(CAP_OF(deciding)) && IN_WINDOW(sums, CAP_OF(deciding), now) >= AMOUNT_OF(CAP_OF(deciding)) ->
        was_reached = was_reached | BIT(END(CAP_OF(deciding), now))
     :: else -> was_open = true
     fi;
#ifdef ENFORCED
     was_short = was_short || IS_GUARDED(kind[deciding]) && IS_THERE(CAP_OF(deciding)) &&
       IN_WINDOW(sums, CAP_OF(deciding), now) + sum_held + ELSEWHERE(deciding, CAP_OF(deciding), now) > AMOUNT_OF(CAP_OF(deciding));
#endif
     clear_sums()
  :: else
  fi
}

/* While the count is below a word, that is true which the word says. */
inline check_words() {
  sum_up(committed);
  if
  :: IS_THERE(cap) && charged < charged_until ->
     day = (told > latest -> told : latest);
     do
     :: day <= 3 -> unsound = unsound || IN_WINDOW(sums, cap, day) + (charged_until - charged - 1) >= AMOUNT_OF(cap); day++
     :: else -> day = 0; break
     od
  :: else
  fi;
#ifdef ENFORCED
  if
  :: IS_THERE(cap) && charged < covered_until ->
     day = latest;
     do
     :: day <= 3 -> unsound = unsound || IN_WINDOW(sums, cap, day) + sum_held + (covered_until - charged - 1) > AMOUNT_OF(cap); day++
     :: else -> day = 0; break
     od
  :: else
  fi;
#endif
  assert(!unsound);
  clear_sums()
}

inline lock_share() { atomic { !exclusive -> sharers++; mode = SHARE } }
inline lock_exclusive() { atomic { sharers == 0 && !exclusive -> exclusive = true; mode = EXCLUSIVE; deciding = me; watch() } }
inline unlock() {
  d_step {
    if
    :: mode == SHARE -> sharers--
    :: mode == EXCLUSIVE -> exclusive = false; deciding = NOBODY; was_reached = 0; was_open = false; was_short = false
    :: else
    fi;
    mode = UNLOCKED
  }
}

/* The own charges. A hold counts as charged when it is made, and when it is extended. */
#define CHARGED \
  ((SPENDS(kind[me]) || kind[me] == MAKE -> amount[me] : 0) + (kind[me] == EXTEND -> HOLD : 0))
inline count() {
  d_step { charged = charged + CHARGED; seen_charged = charged; settled_on = now; covered_on[me] = now; decided = committed }
}

inline read_clock() { d_step { clock = now; covered_on[me] = now } }
/* The cap, the checkpoint and the daily totals, on one snapshot. */
inline read_cap() { seen_cap = cap }
inline read_checkpoint() { seen_folded = folded; seen_until = reached_until }
inline read_days() { seen_days = folded }

/* AnnouncedCap::reached_at, and CapSpend::new: a day of the window that is the current one. */
#define ANNOUNCED(until) ((until) > clock -> (until) : 0)
#ifdef WINDOW_BY_CLOCK_ALONE
#define CURRENT(until) clock
#else
#define CURRENT(until) ((until) > clock && (until) != FOREVER -> (until) - 1 : clock)
#endif

/* The dirty pass: what is in the daily totals, and the delta row by row, by day. */
inline pass_over_ledger() {
  d_step {
    highest[1] = SPENT1; highest[2] = SPENT2; highest[3] = 0; v = 0;
    do
    :: v < TRANSACTIONS -> if :: HAS(seen_days, v) && date[v] > 0 -> highest[date[v]] = highest[date[v]] + SPENT(v) :: else fi; v++
    :: else -> break
    od;
    v = 0
  };
  do
  :: v < TRANSACTIONS ->
     d_step {
       if
#ifdef IN_FLIGHT_LEFT_OUT
       :: HAS(inserted, v) && !HAS(aborted, v) && !HAS(seen_folded, v) && date[v] > 0 && (HAS(committed, v) || v == me) ->
#else
       :: HAS(inserted, v) && !HAS(aborted, v) && !HAS(seen_folded, v) && date[v] > 0 ->
#endif
          highest[date[v]] = highest[date[v]] + SPENT(v)
       :: else
       fi;
       v++
     }
  :: else -> break
  od;
  v = 0
}
#ifdef ENFORCED
/* One dirty pass over holds: the index entries at once, as a leaf page is read, then row by row. Version 0 comes last. */
inline pass_over_holds() {
  page = versions; v = VERSIONS; held = 0;
  do
  :: v > 0 ->
     d_step {
       v--;
       if
       :: HAS(page, v) && !(v > 0 && HAS(aborted, v - 1)) && !DELETED(v) && deleter[v] != me -> held = held + HELD(v)
       :: else
       fi
     }
  :: else -> break
  od;
  page = 0
}
#endif

/* The most that was spent in any window from that of this day on. */
#define FULLEST(by_day, c, from) \
  MOST(((from) <= 1 -> IN_WINDOW(by_day, c, 1) : 0), MOST(((from) <= 2 -> IN_WINDOW(by_day, c, 2) : 0), ((from) <= 3 -> IN_WINDOW(by_day, c, 3) : 0)))

/* CapSpend::left: what may be charged yet. Of a cap that was announced, in the windows to come; of another, in the current one as well. */
inline measure() {
  if
  :: !IS_THERE(seen_cap) -> left = FAR
  :: IS_THERE(seen_cap) && ANNOUNCED(seen_until) != 0 && PERIOD_OF(seen_cap) == ENDLESS -> left = FAR
  :: IS_THERE(seen_cap) && ANNOUNCED(seen_until) != 0 && PERIOD_OF(seen_cap) != ENDLESS ->
#ifdef REACHED_LEAVES_EVERYTHING
     left = FAR
#else
#ifdef NEXT_IGNORED
     left = AMOUNT_OF(seen_cap)
#else
     left = AMOUNT_OF(seen_cap) - FULLEST(highest, seen_cap, END(seen_cap, CURRENT(seen_until)))
#endif
#endif
  :: IS_THERE(seen_cap) && ANNOUNCED(seen_until) == 0 ->
#ifdef LATER_IGNORED
     left = AMOUNT_OF(seen_cap) - IN_WINDOW(highest, seen_cap, clock)
#else
     left = AMOUNT_OF(seen_cap) - FULLEST(highest, seen_cap, clock)
#endif
  fi
}

#ifdef ENFORCED
#define SUFFICES (seen_charged < charged_until && (!IS_GUARDED(kind[me]) || seen_charged < covered_until))
#else
#define SUFFICES (seen_charged < charged_until)
#endif
#ifdef BY_INTERVAL_ALONE
#define CHARGED_SINCE 0
#else
#define CHARGED_SINCE (charged - seen_charged)
#endif

/* Under SHARE: whether the cap stays what it was announced to be, and the own rows within it, whatever becomes of the rows in flight. */
inline assess() {
  if
  :: atomic { SUFFICES -> agrees = true; covered_on[me] = now }
  :: else ->
#ifdef DAYS_BEFORE_CHECKPOINT
     read_days();
#endif
     d_step {
#ifndef CAP_BEFORE_LOCK
       read_cap();
#endif
#ifndef DAYS_BEFORE_CHECKPOINT
       read_days();
#endif
       read_checkpoint()
     };
#ifndef CLOCK_BEFORE_LOCK
     read_clock();
#endif
#ifdef ENFORCED
     if :: IS_GUARDED(kind[me]) -> pass_over_holds() :: else fi;
#endif
     pass_over_ledger();
#ifdef COUNT_AFTER_PASS
     seen_charged = charged;
#endif
     d_step {
       agrees = !IS_THERE(seen_cap) || ANNOUNCED(seen_until) != 0 || IN_WINDOW(highest, seen_cap, clock) < AMOUNT_OF(seen_cap);
       measure();
#ifdef ENFORCED
       if
       :: IS_GUARDED(kind[me]) && IS_THERE(seen_cap) ->
#ifdef COVERED_NOW_ALONE
          room = AMOUNT_OF(seen_cap) - held - IN_WINDOW(highest, seen_cap, clock);
#else
          room = AMOUNT_OF(seen_cap) - held - FULLEST(highest, seen_cap, clock);
#endif
          agrees = agrees && CHARGED_SINCE + ELSEWHERE(me, seen_cap, clock) <= room
       :: else
       fi;
#endif
       if :: agrees && IS_GUARDED(kind[me]) -> decided = committed :: else fi
     };
     if
     /* What leaves nothing publishes nothing. Another backend that writes makes it give up. */
#ifdef PUBLISH_LATE
     :: agrees -> late = true
#else
     :: agrees -> publish()
     :: agrees
#endif
     :: else
     fi
  fi;
  d_step {
    highest[1] = 0; highest[2] = 0; highest[3] = 0; held = 0; seen_until = 0; seen_days = 0; seen_folded = 0; seen_cap = 0;
#ifndef CLOCK_OF_ASSESSMENT
    clock = 0;
#endif
    if :: !late -> left = 0; room = 0 :: else fi
  }
}
inline publish() {
  d_step {
    if :: left > 0 -> charged_until = seen_charged + left :: else fi;
#ifdef ENFORCED
    if :: IS_GUARDED(kind[me]) && seen_charged + room > covered_until -> covered_until = seen_charged + room :: else fi
#endif
  }
}

#define NOTHING 0
#define REACHED 1
#define OPEN 2
#ifdef HOLDS_NOT_SUMMED
#define HELD_ALL (kind[me] == MAKE -> amount[me] : 0)
#else
#define HELD_ALL sum_held
#endif
#ifdef REFUSED_BY_FULLEST
#define SPENT_NOW FULLEST(sums, seen_cap, clock)
#else
#define SPENT_NOW IN_WINDOW(sums, seen_cap, clock)
#endif
#ifdef OPEN_BY_NEW_PERIOD       /* announced in the period that is current for the cap as it is now */
#define WAS_ANNOUNCED (reached_until != 0 && IS_THERE(seen_cap) && END(seen_cap, reached_until - 1) == END(seen_cap, clock))
#else
#define WAS_ANNOUNCED (ANNOUNCED(reached_until) != 0)
#endif

/* Under EXCLUSIVE: committed rows and the own ones, the cap and the checkpoint on one snapshot; then the clock. */
inline decide() {
#ifdef CLOCK_BEFORE_SNAPSHOT
  read_clock();
#endif
  d_step { decided = committed; settled_on = now };
#ifdef CLOCK_OF_ASSESSMENT
  if :: clock == 0 -> read_clock() :: else -> covered_on[me] = clock fi;
#else
#ifndef CLOCK_BEFORE_SNAPSHOT
  read_clock();
#endif
#endif
  d_step {
    sum_up(decided | BIT(me));
    seen_cap = CAP_OF(me);
#ifdef ENFORCED
    refuses = IS_GUARDED(kind[me]) && IS_THERE(seen_cap) && SPENT_NOW + HELD_ALL + ELSEWHERE(me, seen_cap, clock) > AMOUNT_OF(seen_cap);
    refused = refuses && !was_short; assert(!refused);
#endif
    /* The window that was announced, if the clock has gone back; that of the clock where the cap has changed. */
    day = (CHANGES(me) -> clock : CURRENT(reached_until));
    is_reached = IS_THERE(seen_cap) && IN_WINDOW(sums, seen_cap, day) >= AMOUNT_OF(seen_cap);
    next_until = reached_until; says = NOTHING;
    if
#ifdef NEW_WINDOW_FORGOTTEN
    :: is_reached && reached_until == 0 -> next_until = END(seen_cap, day); says = REACHED
#else
    :: is_reached && ANNOUNCED(reached_until) != END(seen_cap, day) -> next_until = END(seen_cap, day); says = REACHED
#endif
#ifdef OPEN_THOUGH_OVER
    :: !is_reached && reached_until != 0 -> next_until = 0; says = OPEN
#else
    :: !is_reached && WAS_ANNOUNCED -> next_until = 0; says = OPEN
#endif
    :: else
    fi;
#ifdef SILENT_CHANGES
    if :: CHANGES(me) -> says = NOTHING :: else fi;
#endif
    unreal = (says == REACHED && !HAS(was_reached, next_until)) || (says == OPEN && IS_THERE(seen_cap) && !was_open);
    assert(!unreal);
#if !defined(NO_VOID) && !defined(VOID_LATE)
    if :: CHANGES(me) -> charged_until = 0; covered_until = 0 :: else fi;
#endif
    writes = true; said_at = clock;
    clear_sums(); day = 0; is_reached = false; seen_cap = 0; clock = 0
  }
}

inline commit() {
  d_step {
    committed = committed | BIT(me);
    if :: CHANGES(me) -> cap = me + 1; changer = NOBODY :: else fi;
    folded = folded | to_fold;
#ifdef ENFORCED
    if
    :: kind[me] == CAPTURE || kind[me] == RELEASE -> gone = true
    :: kind[me] == EXTEND -> current = me + 1
    :: else
    fi;
    if :: IS_GUARDED(kind[me]) && amount[me] > 0 && IS_THERE(cap) -> claim() :: else fi;
#endif
    if
    :: writes ->
       reached_until = next_until;
       if
       :: says == REACHED -> doubled = HAS(ever, next_until); told = next_until;
          /* Of a cap that has changed, what was announced of the window before is of no account. */
          if :: CHANGES(me) -> ever = ever & (BIT(said_at + 1) - 1) :: else fi;
          ever = ever | BIT(next_until)
       :: says == OPEN -> doubled = told <= said_at; ever = ever & (BIT(said_at + 1) - 1); told = 0
       :: else
       fi;
       assert(!doubled)
    :: else
    fi;
    if :: settled_on > last_settled -> last_settled = settled_on :: else fi;
    watch();
    check_words()
  }
}
/* What was spent in the window that was current for the transaction, and what is held, without what committed after its decision and is plain
   usage, was captured beyond the hold, or was covered in a later window. */
inline claim() {
  sum_up(committed);
  do
  :: v < TRANSACTIONS ->
     if
     :: HAS(committed, v) && !HAS(decided, v) && v != me && (kind[v] == USE || covered_on[v] > covered_on[me]) ->
        if :: SPENT(v) > 0 && COUNTS(cap, covered_on[me], date[v]) -> sum_held = sum_held - amount[v] :: else fi;
        if :: kind[v] == MAKE -> sum_held = sum_held - amount[v] :: else fi
     :: HAS(committed, v) && !HAS(decided, v) && kind[v] == CAPTURE && covered_on[v] <= covered_on[me] && COUNTS(cap, covered_on[me], date[v]) ->
        if :: amount[v] > HOLD -> sum_held = sum_held - (amount[v] - HOLD) :: else fi
     :: else
     fi;
     v++
  :: else -> break
  od;
  v = 0;
  overspent = IN_WINDOW(sums, cap, covered_on[me]) + sum_held > AMOUNT_OF(cap); assert(!overspent);
  clear_sums()
}
inline roll_back() {
  d_step {
    aborted = aborted | BIT(me);
    if :: changer == me -> changer = NOBODY :: else fi;
#ifdef ENFORCED
    if :: touched != NOBODY -> deleter[touched] = NOBODY :: else fi
#endif
  }
}

proctype Transaction(byte me) {
  byte  mode, v, day, decided, seen_cap, seen_until, seen_folded, seen_days, clock, settled_on, next_until, says, said_at, to_fold;
  short seen_charged, left, room, held;
  short highest[4];
  bool  agrees, is_reached, refuses, writes, late;
#ifdef ENFORCED
  byte  page, touched = NOBODY;
#endif
#ifdef FOLD
  bool  folds;
#endif

  /* The calls, READ COMMITTED: who deletes or extends a hold, or changes the cap, waits for whoever does. */
#ifdef ENFORCED
  if
  :: TOUCHES(kind[me]) ->
     atomic {
       gone || deleter[current] == NOBODY ->
       if
       :: gone -> aborted = aborted | BIT(me); goto released
       :: else ->
          touched = current; deleter[touched] = me;
          if :: kind[me] == EXTEND -> versions = versions | BIT(me + 1) :: else fi
       fi
     }
  :: else
  fi;
  if :: kind[me] == MAKE && amount[me] > 0 -> versions = versions | BIT(me + 1) :: else fi;
#endif
  if
  :: SPENT(me) > 0 -> d_step { inserted = inserted | BIT(me); if :: IS_DATED_NOW(kind[me]) -> date[me] = now :: else fi }
  :: else
  fi;
  if :: CHANGES(me) -> atomic { changer == NOBODY -> changer = me } :: else fi;
  if :: CHARGED == 0 && !TOUCHES(kind[me]) && !CHANGES(me) -> committed = committed | BIT(me); goto released :: else fi;
  if
  :: roll_back(); goto released
#ifdef PREPARE
  :: MAY_BE_PREPARED(me) ->
#ifndef PREPARED_NOT_COUNTED
     count();
     seen_charged = 0;
#endif
     d_step { settled_on = 0; decided = 0 };
     goto prepared
#endif
  :: skip
  fi;
#ifdef CLOCK_BEFORE_LOCK
  read_clock();
#endif
#ifdef CAP_BEFORE_LOCK
  read_cap();
#endif
#ifdef COUNT_BEFORE_LOCK
  count();
#endif
  if
  :: CHANGES(me) ->
#ifdef CHANGE_SHARED
     lock_share();
#else
     lock_exclusive();
#endif
     count();
     decide()
  :: else ->
     lock_share();
#ifdef COUNT_AFTER_CHECK
     d_step { seen_charged = charged + CHARGED; settled_on = now; covered_on[me] = now; decided = committed };
     assess();
     charged = charged + CHARGED;
#else
#ifndef COUNT_BEFORE_LOCK
     count();
#endif
     assess();
#endif
     if
     :: agrees
     :: !agrees -> unlock(); lock_exclusive(); decide()
#ifdef FORCE
     :: agrees && !late -> unlock(); lock_exclusive(); decide()     /* another boundary is in doubt */
#endif
     fi
  fi;
  if :: refuses -> roll_back(); goto released :: else fi;
#ifdef FOLD
  /* A refresh: what had committed when its pass began. */
  if
  :: atomic { !refresh_lock -> refresh_lock = true; folds = true; to_fold = committed }
  :: skip
  fi;
#endif
prepared:
  v = 0;
  if :: commit() :: roll_back() fi;
released:
  v = 0;
#ifdef FOLD
  if :: folds -> refresh_lock = false :: else fi;
#endif
  unlock();
#ifdef VOID_LATE
  if :: CHANGES(me) && writes -> charged_until = 0; covered_until = 0 :: else fi;
#endif
#ifdef PUBLISH_LATE
  if :: late -> publish() :: else fi;
#endif
  d_step {
    v = 0; decided = 0; seen_cap = 0; clock = 0; settled_on = 0; next_until = 0; says = 0; said_at = 0;
    to_fold = 0; seen_charged = 0; left = 0; room = 0; agrees = false; refuses = false; writes = false; late = false;
#ifdef ENFORCED
    touched = 0;
#endif
#ifdef FOLD
    folds = false;
#endif
    ended++
  }
}

/* The calendar goes on at any moment, or not. */
proctype Calendar() {
  byte v, day;
  do
  :: now < LAST_DAY -> d_step { now++; latest = now; watch(); check_words() }
#ifdef CLOCK_BACK
  :: now > 1 -> d_step { now--; watch() };
     if
     :: d_step { now++; watch() }
     :: skip
     fi;
     break
#endif
  :: break
  od
}

init {
  byte i, v, day;
  do
  :: i < TRANSACTIONS -> if KINDS fi; if AMOUNTS fi; if :: kind[i] == USE && amount[i] > 0 -> if DATES fi :: else fi; i++
  :: else -> break
  od;
  i = 0;
#ifdef ENFORCED
  d_step {
    do :: v < VERSIONS -> deleter[v] = NOBODY; v++ :: else -> break od; v = 0;
    if :: HOLD == 0 -> gone = true; versions = 0 :: else fi
  };
#endif
  d_step {
    /* As it was announced. */
    sum_up(0);
    if :: IS_THERE(0) && IN_WINDOW(sums, 0, 1) >= AMOUNT_OF(0) -> reached_until = END(0, 1); told = reached_until; ever = BIT(told) :: else fi;
    /* As an earlier settlement has published it, */
    if
    :: !IS_THERE(0) -> charged_until = FAR
    :: IS_THERE(0) && told != 0 -> charged_until = (told == FOREVER -> FAR : CAP - FULLEST(sums, 0, told))
    :: IS_THERE(0) && told == 0 -> charged_until = CAP - FULLEST(sums, 0, 1)
    fi;
#ifdef ENFORCED
    if :: IS_THERE(0) -> covered_until = CAP - FULLEST(sums, 0, 1) - HOLD :: else -> covered_until = FAR fi;
#endif
    clear_sums()
  };
  if
  :: charged_until = 0; covered_until = 0       /* or not */
  :: skip
  fi;
  atomic {
    do :: i < TRANSACTIONS -> run Transaction(i); i++ :: else -> break od;
    i = 0;
    if :: LAST_DAY > 1 -> run Calendar() :: else fi
  };
  ended == TRANSACTIONS;
  d_step {
    check_words();
    sum_up(committed);
#ifndef CLOCK_BACK
    missed = told > now && !(IS_THERE(cap) && IN_WINDOW(sums, cap, now) >= AMOUNT_OF(cap));
#ifndef PREPARE
    missed = missed || (IS_THERE(cap) && IN_WINDOW(sums, cap, now) >= AMOUNT_OF(cap) && told != END(cap, now) &&
      last_settled > 0 && END(cap, last_settled) == END(cap, now));
#endif
#endif
    assert(!missed)
  }
}
