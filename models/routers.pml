/* Routers: two of them move one bucket among three nodes, for spin. README.md in this folder says what is abstracted; nodes.pml has what a move does
   to the rows and the sessions of an account, with one router.

   Each router has a map of its own, which may be stale, and notes one move at a time. It begins MOVES of them, to any node. It dies CRASHES times at most, at any
   moment, and takes up what it has noted. Claims:

   - two_owners: at no moment two nodes take the bucket for theirs
   - stale:      at no moment a node serves what another has given to it since it took it last (claimed with STAYS_LOST and VISIT_LOST)
   - nowhere:    when all have ended, one node has it (not claimed with LOST, STAYS_LOST and VISIT_LOST)
   - and every router ends.

   DIED begins where a router has died: its move of the bucket from node 0 to node 2 is noted as given, and node 2 has taken it. There, STAYS_LOST is of node 2.
   LOST has a standby take over for a node, once, which has lost that the bucket is arriving there; TOMBSTONE_LOST, one which has lost the node's last
   tombstone, FAILURES times; DRAWS_LOST, one of these that has the bucket and has lost what numbers its node drew since it took it;
   STAYS_LOST, one that has lost that its node gave the bucket away and took it back; VISIT_LOST, node 2 after DIED, which has lost that it took the
   bucket, and whatever came then. All other flags remove one part. Each must be found wrong: see the script `check`. */

#ifndef MOVES
#define MOVES 2
#endif
#ifndef CRASHES
#define CRASHES 1
#endif
#ifndef FAILURES
#define FAILURES 1
#endif

#if defined(STAYS_LOST) || defined(VISIT_LOST)
#define LOSES_MORE
#endif

#define NODES 3
#define NOBODY NODES

/* What a node says of the bucket. */
#define HERE 0
#define MOVING 1
#define ELSEWHERE 2
#define ARRIVING 3
#define SAYS_IT_HAS(n) (state[n] == HERE || state[n] == MOVING)
#define OWNS(n) (SAYS_IT_HAS(n) && !closed[n])
#define HAS_IT_UNLOCKED(n) (OWNS(n) && !row_locked[n])
#define HAS_TOMBSTONE(n) (state[n] == ELSEWHERE && given_seq[n] != 0 && !row_locked[n])
#define IS_EXPECTED (state[to[me]] == ARRIVING && copied_from[to[me]] == from[me])

/* What a router has noted. */
#define NOTHING 0
#define NOTED 1
#define GIVEN 2
#define UNDOING 3

byte state[NODES];
byte given_to[NODES];           /* in the tombstone */
byte given_seq[NODES];          /* of the handover, in the tombstone, which stays while the bucket is arriving; 0: none */
byte copied_from[NODES];        /* what the bucket is arriving from */
byte received[NODES];           /* the seq of the handover that came with the last copy */
bool row_locked[NODES];
bool closed[NODES];             /* a standby that no router leads to yet */
byte seq[NODES];                /* what handovers are numbered by: the sequence of the ledger */
byte taken_seq[NODES];          /* of the handover by which it has taken the bucket last; 0: it had it from the beginning */

byte map[2], from[2], to[2], noted[2];
byte asked[2];                  /* how many moves were asked for */
byte gone[2];                   /* nodes that failed, a bit each, and that the router has not been told the standby of */
bool waiting[2];
byte crashes, failures, ended;
bool two_owners, stale, nowhere;

#define WAS_GIVEN(m, n) (given_to[m] == n && given_seq[m] > taken_seq[n])
#define IS_STALE(n, m, k) (OWNS(n) && (WAS_GIVEN(m, n) || WAS_GIVEN(k, n)))

inline set_state(n, new) {
  state[n] = new;
  two_owners = OWNS(0) + OWNS(1) + OWNS(2) > 1;
  assert(!two_owners)
#ifdef LOSES_MORE
  ;
  stale = IS_STALE(0, 1, 2) || IS_STALE(1, 0, 2) || IS_STALE(2, 0, 1);
  assert(!stale)
#endif
}

/* A router that dies takes the move up again. */
#define MAY_DIE if :: crashes < CRASHES -> crashes++; goto begin :: skip fi

#ifdef ANY_TOMBSTONE
#define IS_NAMED true
#else
#define IS_NAMED (given_to[from[me]] == to[me])
#endif
/* A router waits for a node that has failed. */
#define CAN_ASK(n) ((gone[me] & (1 << (n))) == 0)

#ifdef NOT_ASKED_WHERE_EXPECTED
#define HAS_GIVEN (state[from[me]] == ELSEWHERE)
#else
#define HAS_GIVEN (!OWNS(from[me]))
#endif

/* Whether the old node has given the bucket to the new one, and that has not given it on since: one is asked after the other. */
inline ask_is_given() {
  atomic { CAN_ASK(from[me]) -> session = failures; given = HAS_GIVEN && IS_NAMED; handover = given_seq[from[me]] };
#ifndef NOT_ASKED_WHETHER_GIVEN_ON
  if
  :: given -> atomic { CAN_ASK(to[me]) -> given = OWNS(to[me]) || given_seq[to[me]] < handover }
  :: else
  fi
#endif
}

inline expect() {
  atomic {
    CAN_ASK(to[me]);
    if
    :: state[to[me]] == ELSEWHERE || state[to[me]] == ARRIVING ->
       if :: !IS_EXPECTED -> received[to[me]] = 0 :: else fi;
       set_state(to[me], ARRIVING); copied_from[to[me]] = from[me]; done = true
    :: else -> done = false
    fi
  }
}

#ifdef TAKEN_TWICE
#define IS_NEWER true
#else
#define IS_NEWER (handover > given_seq[to[me]])
#endif
#ifdef SEQ_NOT_ADVANCED
#define ADVANCE skip
#else
#define ADVANCE seq[to[me]] = (seq[to[me]] > handover -> seq[to[me]] : handover)
#endif

/* While the bucket's row is locked on the new node, the old one is asked once more, in the same session: it has not failed. */
inline activate() {
  atomic { !row_locked[to[me]] && CAN_ASK(to[me]) -> row_locked[to[me]] = true };
#ifndef ASKED_BEFORE_THE_ROW_IS_LOCKED
  if :: failures == session :: else -> row_locked[to[me]] = false; goto begin fi;
#endif
  atomic {
    if
    :: OWNS(to[me]) -> done = true
    :: IS_EXPECTED && received[to[me]] == handover && IS_NEWER -> given_seq[to[me]] = 0; taken_seq[to[me]] = handover; set_state(to[me], HERE); ADVANCE; done = true
    :: else -> done = false
    fi;
    row_locked[to[me]] = false
  }
}

proctype Router(byte me) {
  byte handover, session;
  bool given, done;
begin:
  handover = 0; session = 0; given = false; done = false;
  do
  :: noted[me] == NOTHING && asked[me] == MOVES -> break
  :: noted[me] == NOTHING && asked[me] < MOVES ->
     asked[me]++;
     /* By hand the map follows the nodes, or it does not. */
     if
     :: OWNS(0) && gone[me] == 0 -> map[me] = 0
     :: OWNS(1) && gone[me] == 0 -> map[me] = 1
     :: OWNS(2) && gone[me] == 0 -> map[me] = 2
     :: skip
     fi;
     if :: to[me] = 0 :: to[me] = 1 :: to[me] = 2 fi;
     CAN_ASK(map[me]);
     if
     :: to[me] != map[me] && OWNS(map[me]) -> atomic { from[me] = map[me]; noted[me] = NOTED }
     :: !OWNS(map[me]) && gone[me] == 0 ->
        /* What a standby has lost is sent again, by a node that has given it there: the code takes the handover that is the last of all. */
        atomic {
          if
          :: to[me] != 0 && given_to[0] == to[me] -> from[me] = 0; noted[me] = GIVEN
          :: to[me] != 1 && given_to[1] == to[me] -> from[me] = 1; noted[me] = GIVEN
          :: to[me] != 2 && given_to[2] == to[me] -> from[me] = 2; noted[me] = GIVEN
          :: else
          fi
        }
     :: else
     fi
  :: noted[me] == NOTED ->
     atomic {
       !row_locked[from[me]] && CAN_ASK(from[me]);
       if :: OWNS(from[me]) -> set_state(from[me], MOVING); done = true :: else -> done = false fi
     };
     MAY_DIE;
     if :: !done -> noted[me] = UNDOING; goto begin :: else fi;
     expect();
     MAY_DIE;
     if :: !done -> noted[me] = UNDOING; goto begin :: else fi;
     /* The bucket is held: its row is locked. */
     atomic {
       !row_locked[from[me]] && CAN_ASK(from[me]);
       if :: state[from[me]] == MOVING -> row_locked[from[me]] = true; seq[from[me]]++; handover = seq[from[me]]; done = true :: else -> done = false fi
     };
     if :: !done -> noted[me] = UNDOING; goto begin :: else fi;
     atomic { if :: CAN_ASK(to[me]) && IS_EXPECTED -> received[to[me]] = handover :: else -> done = false fi };
     if
     :: done -> atomic { set_state(from[me], ELSEWHERE); given_to[from[me]] = to[me]; given_seq[from[me]] = handover; row_locked[from[me]] = false }
     :: atomic { row_locked[from[me]] = false }; done = false
     fi;
     MAY_DIE;
     if :: done -> noted[me] = GIVEN :: else -> noted[me] = UNDOING fi
  :: noted[me] == GIVEN ->
     ask_is_given();
     if :: !given -> noted[me] = UNDOING; goto begin :: else fi;
     activate();
     if
     :: done
     :: else ->
        /* It gets again what it has not. */
        expect();
        MAY_DIE;
        if
        :: done ->
           /* The rows are the old node's, in the session that it was asked in. */
           if :: failures == session :: else -> goto begin fi;
           atomic { CAN_ASK(to[me]); if :: IS_EXPECTED -> received[to[me]] = handover :: else fi };
           activate()
        :: else
        fi
     fi;
     MAY_DIE;
     if
     :: done -> atomic { map[me] = to[me]; noted[me] = NOTHING }
     :: !done && !waiting[me] -> waiting[me] = true; (ended > 0 || waiting[1 - me])     /* it stays noted: the caller calls it again */
     :: !done && waiting[me] -> break
     fi
  :: noted[me] == UNDOING ->
     ask_is_given();
     if :: given -> noted[me] = GIVEN; goto begin :: else fi;
     atomic { !row_locked[from[me]] && CAN_ASK(from[me]); if :: state[from[me]] == MOVING -> set_state(from[me], HERE) :: else fi };
     MAY_DIE;
     atomic { !row_locked[to[me]] && CAN_ASK(to[me]); if :: state[to[me]] == ARRIVING -> set_state(to[me], ELSEWHERE) :: else fi };
     MAY_DIE;
     noted[me] = NOTHING
  od;
  skip;
  d_step { handover = 0; session = 0; given = false; done = false; ended++ }
}

#ifdef LOST
/* A standby takes over for a node, and has lost that it expects the bucket. */
proctype Standby() {
  atomic {
    if
    :: state[0] == ARRIVING -> state[0] = ELSEWHERE; received[0] = 0
    :: state[1] == ARRIVING -> state[1] = ELSEWHERE; received[1] = 0
    :: state[2] == ARRIVING -> state[2] = ELSEWHERE; received[2] = 0
    :: skip
    fi
  };
  ended++
}
#define STANDBYS 1
#endif

#ifdef TOMBSTONE_LOST
#ifdef TAKEN_BY_SEQ
#define LAST_TAKEN(n) seq[n]
#else
#define LAST_TAKEN(n) taken_seq[n]
#endif
/* Of two that say they have it, the one that took it last has it. */
#define IS_LATER(other, n) (has_it && (!is_asked || taken_seq[other] > taken_seq[n]) && (owner == NOBODY || taken_seq[other] > given_number))
#ifdef ANY_HANDOVER_BACK
#define BEFORE(number) 0
#else
#define BEFORE(number) number - 1
#endif

/* What a router does before it leads to a standby: one that says it has the bucket may have to give it up, and any other is told the number of the last handover, so that it takes
   no older one. */
inline carry_over(n) {
#ifdef BY_MAP
  atomic {
    !row_locked[n];
    other = (noted[me] == GIVEN -> to[me] : map[me]);
    if
    :: SAYS_IT_HAS(n) && other != n -> seq[n]++; state[n] = ELSEWHERE; given_to[n] = other; given_seq[n] = seq[n]
    :: else
    fi;
    other = 0
  }
#else
  owner = NOBODY; newest = 0; heir = n;
  /* While its row is locked, nobody moves the bucket there or away. */
  atomic {
    !row_locked[n];
    if
    :: SAYS_IT_HAS(n) -> is_asked = true;
#ifndef STANDBY_NOT_LOCKED
       row_locked[n] = true
#endif
#ifdef ELSEWHERE_NOT_ASKED
    :: else -> other = NODES
#else
    :: else
#endif
    fi
  };
  do
#ifdef UNREACHABLE_BY_MAP
  /* It cannot be reached, and the map leads elsewhere. */
  :: other < NODES && other != n && map[me] != other -> other++
#endif
  :: other < NODES && other != n ->
     atomic {
       !row_locked[other];
       has_it = SAYS_IT_HAS(other);
#ifndef NUMBER_DRAWN
       /* By this number it has taken the bucket: what it gives away later is numbered above. It may be a standby that has lost a tombstone, too. */
       if :: IS_LATER(other, n) -> owner = other; given_number = taken_seq[other] :: else fi;
#endif
#ifndef OWNERS_ALONE
       if
       :: !has_it && given_seq[other] > newest && given_to[other] != other -> newest = given_seq[other]; heir = given_to[other]
       :: else
       fi
#endif
     };
#ifdef NUMBER_DRAWN
     if
     :: has_it ->
        /* It has the bucket before and after. */
        seq[other]++; number = seq[other];
        atomic {
          !row_locked[other];
          if
          :: SAYS_IT_HAS(other) -> owner = other; given_number = number; other++
          :: else
          fi
        }
     :: else -> other++
     fi
#else
     other++
#endif
  :: other == n -> other++
  :: other == NODES -> other = 0; break
  od;
  atomic {
    !row_locked[n] || is_asked;
    if
    :: !is_asked ->
       number = (owner != NOBODY -> given_number : (heir != n || newest == 0 -> newest : newest - 1));
       if :: !SAYS_IT_HAS(n) && number > given_seq[n] -> given_to[n] = n; given_seq[n] = number :: else fi
    :: is_asked && owner != NOBODY ->
#ifdef NUMBER_OF_THE_STANDBY
       seq[n]++; given_number = seq[n];
#endif
       state[n] = ELSEWHERE; given_to[n] = owner; given_seq[n] = given_number
    :: is_asked && owner == NOBODY && heir != n && newest > taken_seq[n] -> state[n] = ELSEWHERE; given_to[n] = n; given_seq[n] = newest
#ifndef COMING_BACK_KEPT
    /* Given to it, and not taken: it takes this handover, and none before it. */
    :: is_asked && owner == NOBODY && heir == n && newest > LAST_TAKEN(n) -> state[n] = ELSEWHERE; given_to[n] = n; given_seq[n] = BEFORE(newest)
#endif
    :: else
    fi;
    if :: is_asked -> row_locked[n] = false; is_asked = false :: else fi;
    number = 0; given_number = 0; has_it = false; owner = 0; newest = 0; heir = 0
  }
#endif
}

#ifdef DIED
#define FIRST 2
#define FIRST_SEQ 1
#else
#define FIRST 0
#define FIRST_SEQ 0
#endif

/* A node fails, and its standby has lost the last tombstone; FAILURES times, this node or another. Each router is told of the standbys by itself, at any time, of all that
   there are by then. */
proctype Failover() {
  byte lost, me, other, owner, number, given_number, newest, heir;
  bool is_asked, has_it;
  do
  :: atomic {
       failures < FAILURES && (HAS_TOMBSTONE(0) || HAS_TOMBSTONE(1) || HAS_TOMBSTONE(2));
       if
       :: HAS_TOMBSTONE(0) -> lost = 0
       :: HAS_TOMBSTONE(1) -> lost = 1
       :: HAS_TOMBSTONE(2) -> lost = 2
       fi;
       state[lost] = MOVING; given_to[lost] = NOBODY; given_seq[lost] = 0; closed[lost] = true; failures++;
       gone[0] = gone[0] | (1 << lost); gone[1] = gone[1] | (1 << lost);
       /* The sequence of a standby may be ahead. */
       if :: seq[lost] = seq[lost] + 3 :: skip fi;
       lost = 0
     }
#ifdef DRAWS_LOST
  /* A node that has the bucket fails, and its standby has lost what numbers were drawn since it has taken it. */
  :: atomic {
       failures < FAILURES && (HAS_IT_UNLOCKED(0) || HAS_IT_UNLOCKED(1) || HAS_IT_UNLOCKED(2));
       if
       :: HAS_IT_UNLOCKED(0) -> lost = 0
       :: HAS_IT_UNLOCKED(1) -> lost = 1
       :: HAS_IT_UNLOCKED(2) -> lost = 2
       fi;
       closed[lost] = true; seq[lost] = taken_seq[lost]; failures++;
       gone[0] = gone[0] | (1 << lost); gone[1] = gone[1] | (1 << lost);
       lost = 0
     }
#endif
#ifdef STAYS_LOST
  /* The node that had the bucket in the beginning has it back, and its standby has only what was in the beginning. */
  :: atomic {
       failures < FAILURES && HAS_IT_UNLOCKED(FIRST) && taken_seq[FIRST] != FIRST_SEQ;
       state[FIRST] = MOVING; taken_seq[FIRST] = FIRST_SEQ; received[FIRST] = 0; closed[FIRST] = true; failures++;
       gone[0] = gone[0] | (1 << FIRST); gone[1] = gone[1] | (1 << FIRST);
       if :: seq[FIRST] = seq[FIRST] + 3 :: skip fi
     }
#endif
#ifdef VISIT_LOST
  /* The standby has what was before the bucket came: that it is expected, or not even that. */
  :: atomic {
       failures < FAILURES && !row_locked[2];
       state[2] = ELSEWHERE; given_to[2] = NOBODY; given_seq[2] = 0; taken_seq[2] = 0; received[2] = 0; failures++;
       if :: state[2] = ARRIVING; copied_from[2] = 0; received[2] = 1 :: skip fi;
       gone[0] = gone[0] | 4; gone[1] = gone[1] | 4;
       if :: seq[2] = seq[2] + 3 :: skip fi
     }
#endif
  :: atomic { gone[0] + gone[1] > 0; if :: gone[0] > 0 -> me = 0 :: gone[1] > 0 -> me = 1 fi };
     do
     :: lost < NODES ->
        if :: !CAN_ASK(lost) -> carry_over(lost) :: else fi;
        lost++
     :: lost == NODES -> break
     od;
     atomic {
       lost = 0;
       do
       :: lost < NODES ->
          if :: !CAN_ASK(lost) -> closed[lost] = false; set_state(lost, state[lost]) :: else fi;
          lost++
       :: lost == NODES -> break
       od;
       gone[me] = 0; lost = 0; me = 0
     }
  :: atomic { ended == 2 && gone[0] + gone[1] == 0 -> break }
  od;
  ended++
}
#define STANDBYS 1
#endif

#ifndef STANDBYS
#define STANDBYS 0
#endif

init {
  d_step {
    state[1] = ELSEWHERE; state[2] = ELSEWHERE;
    given_to[0] = NOBODY; given_to[1] = NOBODY; given_to[2] = NOBODY;
    copied_from[0] = NOBODY; copied_from[1] = NOBODY; copied_from[2] = NOBODY;
#ifdef DIED
    state[0] = ELSEWHERE; given_to[0] = 2; given_seq[0] = 1; seq[0] = 1;
    state[2] = HERE; copied_from[2] = 0; received[2] = 1; seq[2] = 1; taken_seq[2] = 1;
    from[1] = 0; to[1] = 2; noted[1] = GIVEN; asked[1] = MOVES
#endif
  };
  atomic {
    run Router(0);
    run Router(1);
#ifdef LOST
    run Standby();
#endif
#ifdef TOMBSTONE_LOST
    run Failover()
#endif
  };
  ended == 2 + STANDBYS;
#if !defined(LOST) && !defined(LOSES_MORE)
  d_step {
    nowhere = OWNS(0) + OWNS(1) + OWNS(2) != 1;
    assert(!nowhere)
  }
#endif
}
