/* Nodes: how a bucket of accounts is moved from one node to another while it is charged, for spin. README.md in this folder says what is
   abstracted; settlement.pml has what a settlement does on one node.

   Two nodes, one bucket with one account, TRANSACTIONS of one row each, READERS, and a mover that moves the bucket from A to B, with BACK to A
   again. Whoever calls may have any map, however stale: he asks any node first, and looks his map up when he is told to ask again. Every
   schedule and every choice of AMOUNTS is explored. Claims:

   - two_owners: at no moment both nodes take the bucket for theirs
   - lost:       when all have ended, one node has the bucket, the map says which, and it has every row that has committed anywhere
   - repeated:   no row commits twice
   - short_read: a reader sees every row that had committed when it began to ask, each once, or is told to ask again
   - missed:     when all have ended, the side announced last is that of the balance, unless transactions were prepared, which the next
                 settlement announces; and it is the side that the account's node has stored
   - doubled:    no notification repeats the one before, whichever node it came from
   - unsound:    when all have ended and the count is below the headroom of the account's node, the balance stays above zero whatever is
                 charged short of it
   - unfinished: the mover leaves no node in the middle of a move
   - and every session ends: the mover, too, where a prepared transaction stays.

   PREPARE lets transactions be prepared, and stay so. CRASHES is how often the mover dies, at any moment: what its session does on a node then goes
   on or is rolled back by itself, and the mover comes again, knowing only what was committed. RESTARTS has either node lose its shared memory.
   RETRY lets a client not hear of its commit and ask again. PURGE has rows removed that the bucket has left behind. FAILOVER has a node replaced
   by a standby that has not got its last transaction; it gives up what the other node has. All other flags remove or change one part. Each must be found wrong: see the
   script `check`. */

#ifndef TRANSACTIONS
#define TRANSACTIONS 2
#endif
#ifndef READERS
#define READERS 0
#endif
#ifndef CRASHES
#define CRASHES 0
#endif
#ifndef FROM                    /* the balance at first, of one row; 0: a new account, without rows */
#define FROM 4
#endif
#ifndef AMOUNTS
#define AMOUNTS :: amount[i] = -3 :: amount[i] = 2
#endif

#define BIT(n) (1 << (n))
#define HAS(set, n) (((set) >> (n)) & 1)

#define A 0
#define B 1

/* What a node's table says of the bucket. */
#define HERE 0                  /* no row */
#define MOVING 1                /* here, and nobody is prepared */
#define ELSEWHERE 2             /* the tombstone */
#define ARRIVING 3              /* copies, inactive */
#define OWNS(n) ((state[n] == HERE || state[n] == MOVING) && !closed[n])

#define FIRST TRANSACTIONS      /* the row that is there at first */
short amount[TRANSACTIONS + 1];

/* What survives crashes: of the nodes, by A and B, sets of rows; of the router, the map and the move that it has begun. */
byte  state[2];
byte  committed[2];             /* rows, copies included */
byte  in_flight[2];             /* rows of open transactions, of prepared ones, too */
byte  prepared;                 /* who is */
bool  announced[2];             /* the side of zero in the account's checkpoint */
byte  map = A;
byte  from = A, to = B;         /* the move */

/* Locks and shared memory of the nodes. */
byte  sharers[2];
bool  exclusive[2];
bool  row_locked[2];            /* the bucket's row in the node's table */
bool  closed[2];                /* a standby that was promoted, and does not serve yet */
byte  stored_last[2];           /* the copies of the node's last transaction */
short charged[2], charged_until[2];

/* For the claims. */
byte  truth;                    /* every row that has committed anywhere */
bool  told;                     /* the side announced last */
bool  two_owners, lost, repeated, short_read, missed, doubled, unsound, unfinished;
bool  any_prepared;
byte  crashes;
byte  ended;
byte  moves;                    /* how many are done */
byte  gave_up;
#ifdef BACK
#define MOVES 2
#else
#define MOVES 1
#endif

#define UNLOCKED 0
#define SHARE 1
#define EXCLUSIVE 2

inline sum_of(result, set) {
  result = 0; v = 0;
  do
  :: v <= TRANSACTIONS -> if :: HAS(set, v) -> result = result + amount[v] :: else fi; v++
  :: else -> v = 0; break
  od
}

/* Changes a node's table of buckets: in a transaction of its own, which waits for the row. */
inline set_state(n, new) {
  state[n] = new; stored_last[n] = 0;
  two_owners = OWNS(A) && OWNS(B);
  assert(!two_owners)
}

inline lock_share(n) { atomic { !exclusive[n] -> sharers[n]++; mode = SHARE } }
inline lock_exclusive(n) { atomic { sharers[n] == 0 && !exclusive[n] -> exclusive[n] = true; mode = EXCLUSIVE } }
inline unlock(n) {
  d_step {
    if
    :: mode == SHARE -> sharers[n]--
    :: mode == EXCLUSIVE -> exclusive[n] = false
    :: else
    fi;
    mode = UNLOCKED
  }
}

inline commit(n) {
  d_step {
    repeated = HAS(truth, me); assert(!repeated);
    committed[n] = committed[n] | BIT(me); in_flight[n] = in_flight[n] & ~BIT(me); truth = truth | BIT(me);
    if
    :: crosses -> doubled = (told == side); assert(!doubled); announced[n] = side; told = side
    :: else
    fi;
    crosses = false; side = false
  }
}
inline roll_back(n) { d_step { in_flight[n] = in_flight[n] & ~BIT(me); crosses = false; side = false; unlock(n) } }

#ifdef NO_CHECK
#define MAY_SETTLE(n) true
#else
#ifdef BY_CHECKPOINT            /* a tombstone for each account that has rows */
#define MAY_SETTLE(n) (OWNS(n) || state[n] == ELSEWHERE && committed[n] == 0)
#else
#define MAY_SETTLE(n) OWNS(n)
#endif
#endif

#ifdef NO_MARK
#define MAY_PREPARE(n) OWNS(n)
#else
#ifdef PREPARED_ELSEWHERE
#define MAY_PREPARE(n) (state[n] != MOVING)
#else
#define MAY_PREPARE(n) (state[n] == HERE)
#endif
#endif

#define CHARGE (amount[me] < 0 -> -amount[me] : 0)
#define GRANT (amount[me] > 0 -> amount[me] : 0)

proctype Transaction(byte me) {
  byte n, mode, v;
  short sum;
  bool may, crosses, side, agrees, heard;
  if :: n = A :: n = B fi;
again:
  may = false; agrees = false; sum = 0;
  /* The call: a row that is there is a retry. */
  atomic {
    if
    :: HAS(committed[n], me) && OWNS(n) -> goto done
    :: HAS(committed[n], me) && !OWNS(n) -> n = map; goto again
    :: else -> in_flight[n] = in_flight[n] | BIT(me)
    fi
  };
#ifdef PREPARE
  if
  :: may = MAY_PREPARE(n); goto prepare
  :: skip
  fi;
#endif
#ifdef CHECK_BEFORE_LOCK
  may = MAY_SETTLE(n);
#endif
  lock_share(n);
#ifndef CHECK_BEFORE_LOCK
  may = MAY_SETTLE(n);
#endif
  d_step {
#ifdef CHECK_WHERE_LOOKED
    may = may || charged[n] + CHARGE < charged_until[n];
#endif
    /* Who is refused counts nothing: he comes again as often as he likes. */
    if :: may -> charged[n] = charged[n] + CHARGE :: else fi;
    if
    :: !may
    :: may && charged[n] < charged_until[n] -> agrees = true
    :: else ->
       /* The pass: the lowest outcome of all that is in flight. */
       sum_of(sum, committed[n]);
       do
       :: v < TRANSACTIONS -> if :: HAS(in_flight[n], v) && (amount[v] < 0 || v == me) -> sum = sum + amount[v] :: else fi; v++
       :: else -> v = 0; break
       od;
       agrees = announced[n] && sum > 0;
       if :: agrees && charged[n] + sum - GRANT > charged_until[n] -> charged_until[n] = charged[n] + sum - GRANT :: else fi
    fi;
    sum = 0
  };
  if
  :: !may -> roll_back(n); n = map; goto again
  :: may && agrees
  :: else ->
     unlock(n);
     lock_exclusive(n);
#ifdef CHECK_ONCE
     skip;
#else
     may = MAY_SETTLE(n);
#endif
     if :: !may -> roll_back(n); n = map; goto again :: else fi;
     d_step { sum_of(sum, committed[n] | 1 << me); side = sum > 0; crosses = (side != announced[n]); sum = 0 }
  fi;
  if :: commit(n) :: roll_back(n); goto done fi;
  unlock(n);
#ifdef RETRY
  if :: !heard -> heard = true; if :: n = A :: n = B fi; goto again :: skip fi;
#endif
  goto done;
#ifdef PREPARE
prepare:
  if
  :: !may -> roll_back(n); n = map; goto again
  :: else
  fi;
  d_step { charged[n] = charged[n] + CHARGE; prepared = prepared | BIT(me); any_prepared = true };
  if
  :: d_step { commit(n); prepared = prepared & ~BIT(me) }
  :: d_step { roll_back(n); prepared = prepared & ~BIT(me) }
  :: skip                                       /* stays */
  fi;
#endif
done:
  mode = UNLOCKED;
  d_step { n = 0; v = 0; may = false; agrees = false; heard = false; crosses = false; side = false; ended++ }
}

/* Asks the bucket's node. What a node says of the bucket and its rows are of one snapshot. */
proctype Reader() {
  byte n, before, seen;
  bool owned;
  if :: n = A :: n = B fi;
  before = truth;
ask:
  seen = 0;
#ifdef READ_BEFORE_CHECK
  seen = committed[n];
  owned = OWNS(n);
#else
  d_step { seen = committed[n]; owned = OWNS(n) };
#endif
#ifdef READ_UNCHECKED
  owned = true;
#endif
  if
  :: owned -> short_read = (before & ~seen) != 0; assert(!short_read)
  :: else -> n = map; goto ask
  fi;
  d_step { n = 0; before = 0; seen = 0; owned = false; ended++ }
}

/* Asks all nodes, one after the other: each has its say which buckets are its own. Together they must be each bucket once. */
proctype ReaderOfAll() {
  byte before, seen;
  byte owners;
  before = truth;
ask:
  owners = 0;
  d_step { owners = OWNS(A); seen = (OWNS(A) -> committed[A] : 0) };
  d_step { if :: OWNS(B) && (seen & committed[B]) != 0 -> owners = 3 :: else owners = owners + OWNS(B) fi; seen = seen | (OWNS(B) -> committed[B] : 0) };
#ifndef ALL_UNCHECKED
  if :: owners != 1 -> goto ask :: else fi;
#endif
  short_read = owners == 3 || (before & ~seen) != 0; assert(!short_read);
  d_step { before = 0; seen = 0; owners = 0; ended++ }
}

#define MISSING (committed[f] & ~committed[t])

/* Stores copies on the new node, in one transaction, which has the bucket's row there: it is arriving until that ends. A row that is there
   already is left alone: an earlier session of the mover may have brought it meanwhile, or the bucket was here before. They are settled, and
   nothing is announced. */
inline store(got) {
#ifdef COPIED_TWICE
  repeated = (got & committed[t]) != 0; assert(!repeated);
#endif
  stored_last[t] = got & ~committed[t];
  committed[t] = committed[t] | got;
  sum_of(sum, committed[t]);
#ifdef COPIES_ANNOUNCED
  if :: (sum > 0) != announced[t] -> doubled = (told == (sum > 0)); assert(!doubled); told = (sum > 0) :: else fi;
#endif
  announced[t] = (sum > 0);
  sum = 0
}

/* The bucket is here, from now on: in the same transaction its account is settled with the side that was announced on the old node, where nobody
   settles any more. What prepared transactions have left to be announced is announced now. */
inline activate() {
  set_state(t, HERE);
#ifndef HEADROOM_OF_BEFORE
  charged_until[t] = 0;
#endif
#ifdef SIDES_EARLY
  announced[t] = side_before;
#else
#if !defined(NO_SIDES) && !defined(COPIES_ANNOUNCED)
  announced[t] = announced[f];
#endif
#endif
  sum_of(sum, committed[t]);
  if :: (sum > 0) != announced[t] -> announced[t] = (sum > 0); doubled = (told == announced[t]); assert(!doubled); told = announced[t] :: else fi;
  sum = 0
}

#define TAKES_COPIES(t) (state[t] == ARRIVING)

/* A session on the old node that carries out the rest of the move up to the commit point. It may outlive the mover. */
byte  sessions;                 /* how many are there */
proctype LastCopy(byte f, t) {
  byte mode, got, waited, v;
  short sum;
#ifndef ROW_NOT_LOCKED
  atomic { !row_locked[f] -> row_locked[f] = true };
#endif
#ifndef TOMBSTONE_UNCHECKED
  if :: state[f] != MOVING -> goto over :: else fi;
#endif
#if !defined(NO_WAIT) && !defined(WAIT_BEFORE_MARK) && !defined(WAIT_BEFORE_ROW)
  /* Whoever was asked for PREPARE before the mark has written before it. */
  waited = in_flight[f];
  if
  :: (in_flight[f] & waited) == 0
#ifndef NEVER_GIVES_UP
  :: (prepared & waited) != 0 -> goto over
#endif
  fi;
#endif
#ifdef LAST_COPY_UNLOCKED
  got = MISSING;
#else
  lock_exclusive(f);
  got = MISSING;
#endif
  if :: goto over :: skip fi;
  /* A row of a stale caller may be in flight on the new node with the same key: he is waited for as long as lock_timeout says. */
  atomic {
    if
    :: !TAKES_COPIES(t) -> goto over
    :: TAKES_COPIES(t) && (in_flight[t] & got) == 0 ->
       d_step { store(got) }
    :: TAKES_COPIES(t) && (in_flight[t] & got) != 0 -> goto over
    fi
  };
  if :: goto over :: skip fi;
#ifdef LET_GO_BEFORE_TOMBSTONE
  unlock(f);
#endif
#ifdef LAST_COPY_UNLOCKED
  lock_exclusive(f);
#endif
  d_step {
    set_state(f, ELSEWHERE);
#ifdef CHECK_WHERE_LOOKED
#ifndef HEADROOM_KEPT
    charged_until[f] = 0
#endif
#endif
  };
over:
  got = 0;
  unlock(f);
#ifndef ROW_NOT_LOCKED
  row_locked[f] = false;
#endif
  d_step { got = 0; waited = 0; sessions-- }
}

/* The mover dies: it comes again and knows nothing but what was committed. */
#define MAY_DIE if :: crashes < CRASHES -> crashes++; got = 0; waited = 0; goto begin :: skip fi

proctype Mover() {
  byte f, t, got, waited, v;
  short sum;
#ifdef SIDES_EARLY
  bool side_before;
#endif
begin:
  f = from;
  t = to;
  if
  :: !closed[f] && state[f] == ELSEWHERE -> goto given
  :: !closed[f] && state[f] != ELSEWHERE
  fi;
  /* Before the commit point it goes on, or undoes. */
#ifdef UNDOES
  if :: goto undo :: skip fi;
#endif
  atomic { !row_locked[t] -> if :: state[t] == ELSEWHERE -> set_state(t, ARRIVING) :: else fi };
  MAY_DIE;
#ifdef ACTIVE_FROM_THE_START
  set_state(t, HERE);
#endif
  if
  :: got = MISSING;
     atomic {
       if
       :: TAKES_COPIES(t) && (in_flight[t] & got) == 0 ->
          d_step {
            store(got);
#ifdef SIDES_EARLY
            side_before = announced[f]
#endif
          }
       :: else
       fi
     };
     got = 0
  :: skip
  fi;
  MAY_DIE;
#ifdef WAIT_BEFORE_MARK
  waited = in_flight[f];
  if
  :: (in_flight[f] & waited) == 0
  :: (prepared & waited) != 0 -> waited = 0; goto undo
  fi;
#endif
  atomic { !row_locked[f] -> if :: state[f] == HERE -> set_state(f, MOVING) :: state[f] == ELSEWHERE -> goto given :: else fi };
  MAY_DIE;
#ifdef WAIT_BEFORE_ROW
  waited = in_flight[f];
  if
  :: (in_flight[f] & waited) == 0
  :: (prepared & waited) != 0 -> waited = 0; goto undo
  fi;
#endif
  waited = 0;
  d_step { sessions++ };
  run LastCopy(f, t);
  if
  :: sessions == 0
  :: crashes < CRASHES -> crashes++; goto begin
  fi;
  if :: !closed[f] && state[f] == ELSEWHERE -> goto given :: !closed[f] && state[f] != ELSEWHERE -> goto undo fi;

undo:
#ifdef NEW_NODE_UNDONE_FIRST
  atomic { !row_locked[t] -> if :: state[t] == ARRIVING -> set_state(t, ELSEWHERE) :: else fi };
  MAY_DIE;
#endif
  atomic { !row_locked[f] -> if :: state[f] == MOVING -> set_state(f, HERE) :: state[f] == ELSEWHERE -> goto given :: else fi };
  MAY_DIE;
  atomic { !row_locked[t] -> if :: state[t] == ARRIVING -> set_state(t, ELSEWHERE) :: else fi };
  gave_up = 1;
  goto over;

given:
  /* Behind the commit point it only goes on. */
#ifdef FAILOVER
  /* A standby of the old node may not have the tombstone. */
  if :: !closed[f] && state[f] == ELSEWHERE :: !closed[f] && state[f] != ELSEWHERE -> goto begin fi;
  MAY_DIE;
#ifndef COPIES_TRUSTED
  /* Nor one of the new node the last copies. The old node's rows do not change any more: what the new one has not, it gets. */
  got = MISSING;
  atomic {
    if
    :: TAKES_COPIES(t) && (in_flight[t] & got) == 0 -> d_step { store(got) }
    :: !TAKES_COPIES(t)
    fi
  };
  got = 0;
  MAY_DIE;
#endif
#endif
  atomic {
    !row_locked[t] ->
    if
    :: state[t] == ARRIVING ->
#if defined(FAILOVER) && !defined(NOT_LOOKED_AGAIN)
       /* While the row is locked here, the old node is asked once more. */
       if :: closed[f] || state[f] != ELSEWHERE -> goto given :: else fi;
#endif
#if defined(FAILOVER) && !defined(COMPARED_EARLY) && !defined(COPIES_TRUSTED)
       /* It says itself that it has all, in the transaction that activates: a standby may have taken over since it was asked. */
       if :: MISSING != 0 -> goto given :: else fi;
#endif
       activate()
    :: state[t] == HERE
    fi
  };
  MAY_DIE;
#ifndef MAP_NOT_TURNED
  map = t;
#endif
  MAY_DIE;
over:
  skip;
  d_step { got = 0; waited = 0; moves++ };
  if
  :: moves < MOVES && gave_up == 0 -> d_step { from = t; to = f }; goto begin
  :: else
  fi;
  d_step { f = 0; t = 0; ended++ }
}

#ifdef PURGE
/* Removes what the bucket has left behind on A. The tombstone stays. */
proctype Purger() {
#ifdef PURGE_UNLOCKED
  if
  :: state[A] == ELSEWHERE && map == B -> skip; committed[A] = 0
  :: skip
  fi;
#else
  atomic {
    if
#ifdef PURGE_EARLY
    :: !row_locked[A] && state[A] == ELSEWHERE ->
#else
    :: !row_locked[A] && state[A] == ELSEWHERE && map == B ->
#endif
       committed[A] = 0;
#ifdef TOMBSTONE_PURGED
       set_state(A, HERE)
#endif
    :: skip
    fi
  };
#endif
  ended++
}
#define PURGERS 1
#else
#define PURGERS 0
#endif

#ifdef RESTARTS
/* A crash of a node is a rollback of each of its sessions, which they do by themselves, and then the loss of its shared memory. */
proctype Restart() {
  byte n;
  if :: n = A :: n = B fi;
  atomic {
    if
    :: (in_flight[n] & ~prepared) == 0 && sharers[n] == 0 && !exclusive[n] -> charged[n] = 0; charged_until[n] = 0
    :: skip
    fi
  };
  n = 0; ended++
}
#define RESTARTERS 1
#else
#define RESTARTERS 0
#endif

#ifdef FAILOVER
/* A standby without the last transaction takes over. Before it serves, it gives up what another node has. */
proctype Failover() {
  bool is_given;
  atomic {
    if
#ifndef COPIES_KEPT
    :: state[B] == ARRIVING && stored_last[B] != 0 -> committed[B] = committed[B] & ~stored_last[B]; stored_last[B] = 0; announced[B] = !announced[B]; goto over
#endif
#ifndef TOMBSTONES_KEPT
    :: state[A] == ELSEWHERE && from == A && !row_locked[A] && sessions == 0 && !exclusive[A] -> state[A] = MOVING; closed[A] = true; row_locked[A] = true
#endif
    :: goto over
    fi
  };
#ifndef NOT_CARRIED_OVER
  is_given = OWNS(B);
  if :: is_given -> state[A] = ELSEWHERE :: else fi;
#endif
  d_step { closed[A] = false; row_locked[A] = false; two_owners = OWNS(A) && OWNS(B); assert(!two_owners) };
over:
  is_given = false; ended++
}
#define FAILOVERS 1
#else
#define FAILOVERS 0
#endif

#ifdef READ_ALL
#define READERS_OF_ALL 1
#else
#define READERS_OF_ALL 0
#endif

init {
  byte i, v, owner;
  short sum;
  d_step {
    state[A] = HERE; state[B] = ELSEWHERE;
    amount[FIRST] = FROM;
    if
    :: FROM != 0 -> committed[A] = BIT(FIRST); truth = BIT(FIRST); announced[A] = (FROM > 0); told = (FROM > 0)
    :: else
    fi
  };
  do
  :: i < TRANSACTIONS -> if AMOUNTS fi; i++
  :: else -> break
  od;
  i = 0;
  if :: FROM > 0 -> charged_until[A] = FROM :: skip fi;
  atomic {
    do
    :: i < TRANSACTIONS -> run Transaction(i); i++
    :: else -> i = 0; break
    od;
    do
    :: i < READERS -> run Reader(); i++
    :: else -> i = 0; break
    od;
#ifdef READ_ALL
    run ReaderOfAll();
#endif
#ifdef PURGE
    run Purger();
#endif
#ifdef RESTARTS
    run Restart();
#endif
#ifdef FAILOVER
    run Failover();
#endif
    run Mover()
  };
  ended == TRANSACTIONS + READERS + READERS_OF_ALL + PURGERS + RESTARTERS + FAILOVERS + 1 && sessions == 0;
  d_step {
    unfinished = state[A] == MOVING || state[B] == MOVING || state[A] == ARRIVING || state[B] == ARRIVING;
    assert(!unfinished);
    owner = map;
    lost = !OWNS(owner) || committed[owner] != truth;
    assert(!lost);
    sum_of(sum, truth);
    missed = announced[owner] != told || !any_prepared && told != (sum > 0);
    assert(!missed);
    unsound = charged[owner] < charged_until[owner] && sum - (charged_until[owner] - charged[owner] - 1) <= 0;
    assert(!unsound)
  }
}
