//! Of assessments and decisions.

use super::*;
use crate::boundaries::Boundaries;
use crate::caps::{AnnouncedCap, Cap, CapChange, CapSpend, CapState, Clock};
use crate::coverage::Coverage;
use crate::credits::Credits;
use crate::crossing::{Crossing, Direction, Threshold};
use crate::fold::DeltaRow;
use crate::id::CapId;
use crate::segment::headroom::{Counted, Cover, Written, steps};

const INTERVAL: i64 = 3;
const NOW: i64 = 1_000;
const OWN: u64 = 50;

fn coverage(watermark: u64, stragglers: &[u64]) -> Coverage {
    Coverage::from_parts(watermark, stragglers.iter().copied()).unwrap()
}

/// 100 rows that sum up to `units`.
fn checkpoint(units: i128, is_positive: bool) -> Checkpoint {
    let fold = Fold {
        coverage: coverage(10, &[5]),
        balance: Credits::from_units(units),
        transaction_count: 100,
        latest_seq: 100,
    };
    Checkpoint { fold, announced: side(is_positive, Some(7)), overdraft: Overdraft::default() }
}

fn side(is_positive: bool, crossed_at: Option<i64>) -> Announced {
    Announced { is_positive, crossed_at, ..Announced::default() }
}

fn boundaries(thresholds: &[i128]) -> Boundaries {
    let thresholds = thresholds.iter().copied().map(Credits::from_units).collect();
    Boundaries::new(Overdraft::UpTo(Credits::from_units(20)), thresholds)
}

/// A checkpoint of an account with these thresholds, each crossed last at 7.
fn bounded(units: i128, thresholds: &[i128]) -> Checkpoint {
    let mut stored = checkpoint(units, units > 0);
    let boundaries = boundaries(thresholds);
    let announced = stored.announced.with_thresholds_of(&boundaries, |threshold| units > threshold.units());
    let crossed = |threshold: &Threshold| Threshold { crossed_at: Some(7), ..*threshold };
    let thresholds = announced.thresholds.iter().map(crossed).collect();
    stored.announced = Announced { thresholds, ..announced };
    stored.overdraft = boundaries.overdraft;
    stored
}

/// Rows of these transactions on top of the fold; a refresh may cover transactions 10 to 19.
fn pass(base: &Fold, rows: &[(u64, i128)], in_flight: &[i128]) -> DeltaPass {
    let mut pass = DeltaPass::new(base.clone(), coverage(20, &[5]), Some(OWN));
    for (seq, &(transaction, units)) in (101..).zip(rows) {
        let amount = Credits::from_units(units);
        pass.add(&DeltaRow { transaction, amount, seq }).unwrap();
    }
    for &units in in_flight {
        pass.add_in_flight(Credits::from_units(units)).unwrap();
    }
    pass
}

fn assess_with(stored: &Checkpoint, pass: &DeltaPass, request: Request) -> Assessment {
    assess_covered(stored, pass, request, None)
}

fn assess_covered(
    stored: &Checkpoint,
    pass: &DeltaPass,
    request: Request,
    cover: Option<&Cover>,
) -> Assessment {
    let found = Found { rows: FoundRows::Checkpoint(stored, pass), cover, caps: &[] };
    assess(&found, &own(request), INTERVAL).unwrap()
}

/// Of a transaction that has written nothing, where nothing has been counted.
fn own(request: Request) -> Own {
    Own { request, written: Written::default(), counted: Counted::default() }
}

const fn nobody(has_rows: bool, cover: Option<&Cover>) -> Found<'_> {
    Found { rows: FoundRows::NoCheckpoint { has_rows }, cover, caps: &[] }
}

fn decide_with(stored: Option<&Checkpoint>, pass: &DeltaPass, deleted: Option<&Announced>) -> Decision {
    decide_on(stored, pass, &terms(Request::Settle, deleted, None))
}

fn decide_on(stored: Option<&Checkpoint>, pass: &DeltaPass, terms: &Terms<'_>) -> Decision {
    decide(stored, pass, terms, INTERVAL, NOW).unwrap()
}

const fn terms<'a>(
    request: Request,
    deleted: Option<&'a Announced>,
    boundaries: Option<&'a Boundaries>,
) -> Terms<'a> {
    Terms { request, deleted, boundaries, held: None, caps: &[] }
}

#[test]
fn a_user_without_rows_has_nothing_to_decide() {
    for request in [Request::Settle, Request::RefreshIfFree, Request::Refresh] {
        let of = |has_rows| assess(&nobody(has_rows, None), &own(request), INTERVAL);
        assert_eq!(of(false), Ok(Assessment::Nothing));
        assert_eq!(of(true), Ok(Assessment::Doubt));
    }
    let nobody = pass(&Fold::default(), &[], &[]);
    assert_eq!(decide_with(None, &nobody, None), Decision::Nothing);
    assert_eq!(decide_with(None, &nobody, Some(&side(true, None))), Decision::Nothing);
}

#[test]
fn any_outcome_on_the_other_side_is_doubt() {
    let stored = checkpoint(100, true);
    for (rows, in_flight) in [(&[][..], &[-100][..]), (&[(OWN, -60)], &[-40, 90]), (&[(12, -100)], &[])] {
        assert_eq!(
            assess_with(&stored, &pass(&stored.fold, rows, in_flight), Request::Settle),
            Assessment::Doubt
        );
    }
    let below = checkpoint(-5, false);
    assert_eq!(assess_with(&below, &pass(&below.fold, &[], &[6]), Request::Settle), Assessment::Doubt);
    let agrees = assess_with(&below, &pass(&below.fold, &[], &[5]), Request::Settle);
    assert_eq!(agrees, Assessment::Agrees { headroom: None, lags: false });
    let between = bounded(-5, &[-8, -2]);
    for in_flight in [&[3][..], &[4], &[-2], &[-3]] {
        let agrees = matches!(
            assess_with(&between, &pass(&between.fold, &[], in_flight), Request::Settle),
            Assessment::Agrees { .. }
        );
        assert_eq!(agrees, matches!(in_flight, [3 | -2]), "{in_flight:?}");
    }
}

#[test]
fn headroom_knows_how_far_the_checkpoint_is_behind() {
    let stored = checkpoint(i128::from(u32::MAX) << 64, true);
    let two = pass(&stored.fold, &[(11, -1), (12, -1), (30, -1)], &[-1]);
    let counted = Counted::new(500, 0, 40);
    let assess_counted = |pass, request| {
        let found = Found { rows: FoundRows::Checkpoint(&stored, pass), cover: None, caps: &[] };
        assess(&found, &Own { counted, ..own(request) }, INTERVAL).unwrap()
    };
    let suffices = |assessment, rows| {
        let Assessment::Agrees { headroom: Some(headroom), .. } = assessment else { return false };
        headroom.suffices(&Counted::new(500, 0, rows), 10)
    };
    let behind = assess_counted(&two, Request::Settle);
    assert!(matches!(behind, Assessment::Agrees { lags: false, .. }), "{behind:?}");
    assert!(suffices(behind, 47) && !suffices(behind, 48));
    let three = pass(&stored.fold, &[(11, -1), (12, -1), (13, -1)], &[-1]);
    for lagging in [assess_counted(&three, Request::Settle), assess_counted(&two, Request::RefreshIfFree)] {
        assert!(matches!(lagging, Assessment::Agrees { lags: true, .. }), "{lagging:?}");
        assert!(suffices(lagging, 49) && !suffices(lagging, 50));
    }
}

#[test]
fn a_crossing_is_announced_with_its_time() {
    let stored = checkpoint(3, true);
    let crossing = pass(&stored.fold, &[(12, -2), (OWN, -1)], &[]);
    assert_eq!(
        decide_with(Some(&stored), &crossing, None),
        Decision::Write(Change {
            refreshes: false,
            rebounds: false,
            announced: side(false, Some(NOW)),
            overdraft: Overdraft::default(),
            crossings: vec![Crossing { boundary: Credits::ZERO, direction: Direction::Down }],
            cap_changes: Vec::new(),
        })
    );
    let near = pass(&stored.fold, &[(12, -2)], &[]);
    assert_eq!(decide_with(Some(&stored), &near, None), Decision::Nothing);
}

#[test]
fn a_refresh_without_a_crossing_keeps_what_was_announced() {
    let stored = checkpoint(100, true);
    let three = pass(&stored.fold, &[(11, -1), (12, -1), (13, -1)], &[]);
    let refresh = Decision::Write(Change {
        refreshes: true,
        rebounds: false,
        announced: stored.announced.clone(),
        overdraft: stored.overdraft,
        crossings: Vec::new(),
        cap_changes: Vec::new(),
    });
    assert_eq!(decide_with(Some(&stored), &three, None), refresh);
    let one = pass(&stored.fold, &[(11, -1)], &[]);
    assert_eq!(decide_with(Some(&stored), &one, None), Decision::Nothing);
    let same = Boundaries::default();
    let forced =
        |pass: &DeltaPass| decide_on(Some(&stored), pass, &terms(Request::Refresh, None, Some(&same)));
    assert_eq!(forced(&one), refresh);
    assert_eq!(forced(&pass(&stored.fold, &[(OWN, -1)], &[])), Decision::Nothing);
    // The straggler has ended, and had no row.
    let ended = DeltaPass::new(stored.fold.clone(), coverage(20, &[]), None);
    assert_eq!(forced(&ended), refresh);
    assert_eq!(decide_with(Some(&stored), &ended, None), Decision::Nothing);
}

#[test]
fn of_a_user_without_a_checkpoint_no_crossing_is_missed() {
    let made = |rows: &[(u64, i128)], deleted: Option<&Announced>| {
        let Decision::Write(Change { refreshes: true, announced, crossings, .. }) =
            decide_with(None, &pass(&Fold::default(), rows, &[]), deleted)
        else {
            panic!("a checkpoint is made")
        };
        let crossing = crossings.first().map(|crossing| crossing.direction);
        (announced.is_positive, announced.crossed_at, crossing)
    };
    assert_eq!(made(&[(OWN, 5)], None), (true, Some(NOW), Some(Direction::Up)));
    assert_eq!(made(&[(OWN, -5)], None), (false, None, None));
    assert_eq!(made(&[(12, -5)], None), (false, None, None));
    // Committed rows that no settlement has announced anything of.
    assert_eq!(made(&[(12, 5)], None), (true, Some(NOW), Some(Direction::Up)));
    assert_eq!(made(&[(12, 5), (OWN, -1)], None), (true, Some(NOW), Some(Direction::Up)));
    assert_eq!(made(&[(12, -5), (OWN, 6)], None), (true, Some(NOW), Some(Direction::Up)));
    assert_eq!(made(&[(12, 5), (OWN, -5)], None), (false, Some(NOW), Some(Direction::Down)));
    // One whose checkpoint was deleted is no new one.
    let deleted = |is_positive| side(is_positive, Some(7));
    assert_eq!(made(&[(12, 5)], Some(&deleted(true))), (true, Some(7), None));
    assert_eq!(made(&[(12, 5)], Some(&deleted(false))), (true, Some(NOW), Some(Direction::Up)));
}

/// A threshold by its units, the announced side, and when it was crossed.
type Side = (i128, bool, Option<i64>);

/// What was announced of each threshold, and which crossings were.
fn written(decision: Decision) -> (Vec<Side>, Vec<i128>) {
    let Decision::Write(Change { announced, crossings, .. }) = decision else { panic!("{decision:?}") };
    let sides = announced
        .thresholds
        .iter()
        .map(|threshold| (threshold.balance.units(), threshold.is_above, threshold.crossed_at));
    (sides.collect(), crossings.iter().map(|crossing| crossing.boundary.units()).collect())
}

#[test]
fn several_boundaries_are_crossed_at_once() {
    let stored = bounded(9, &[5, -4, 12]);
    let far = pass(&stored.fold, &[(OWN, -20)], &[]);
    let sides = [(-4, false, Some(NOW)), (5, false, Some(NOW)), (12, false, Some(7))].to_vec();
    assert_eq!(written(decide_with(Some(&stored), &far, None)), (sides, vec![5, 0, -4]));
    let near = pass(&stored.fold, &[(OWN, 3)], &[]);
    assert_eq!(decide_with(Some(&stored), &near, None), Decision::Nothing);
    let up = pass(&stored.fold, &[(OWN, 4)], &[]);
    let sides = [(-4, true, Some(7)), (5, true, Some(7)), (12, true, Some(NOW))].to_vec();
    assert_eq!(written(decide_with(Some(&stored), &up, None)), (sides, vec![12]));
}

/// New ones are silent, those that stay and zero are decided as ever.
#[test]
fn new_thresholds_are_not_announced() {
    let stored = bounded(9, &[5, -4]);
    let change = |stored: Option<&Checkpoint>, pass: &DeltaPass, thresholds: &[i128]| {
        decide_on(stored, pass, &terms(Request::Rebound, None, Some(&boundaries(thresholds))))
    };
    let down = pass(&stored.fold, &[(OWN, -9)], &[]);
    let sides = [(-2, true, None), (5, false, Some(NOW)), (8, false, None)].to_vec();
    assert_eq!(written(change(Some(&stored), &down, &[8, 5, -2])), (sides, vec![5, 0]));
    let same = pass(&stored.fold, &[], &[]);
    assert_eq!(change(Some(&stored), &same, &[5, -4]), Decision::Nothing);
    // One that the balance lies on is not exceeded.
    let sides = [(-4, true, Some(7)), (5, true, Some(7)), (9, false, None)].to_vec();
    assert_eq!(written(change(Some(&stored), &same, &[9, 5, -4])), (sides, vec![]));
    let Decision::Write(Change { rebounds: true, refreshes: false, .. }) = change(Some(&stored), &same, &[5])
    else {
        panic!("a threshold is gone")
    };
    let limit = Boundaries::new(Overdraft::Unlimited, [5, -4].map(Credits::from_units).to_vec());
    let terms = terms(Request::Rebound, None, Some(&limit));
    assert!(matches!(
        decide_on(Some(&stored), &same, &terms),
        Decision::Write(Change { rebounds: true, overdraft: Overdraft::Unlimited, .. })
    ));
    // A user without rows gets a checkpoint, and one of which nothing has been announced, too.
    let nobody = pass(&Fold::default(), &[], &[]);
    assert_eq!(written(change(None, &nobody, &[5, -4])), (vec![(-4, true, None), (5, false, None)], vec![]));
    let rows = pass(&Fold::default(), &[(12, 9)], &[]);
    let sides = vec![(-4, true, None), (5, true, None)];
    assert_eq!(written(change(None, &rows, &[5, -4])), (sides, vec![0]));
}

/// As of zero: a crossing that nobody has announced is.
#[test]
fn of_a_user_without_a_checkpoint_no_threshold_is_missed() {
    let made = |rows: &[(u64, i128)], deleted: Option<&Announced>| {
        let boundaries = boundaries(&[5, -4]);
        let terms = terms(Request::Refresh, deleted, Some(&boundaries));
        written(decide_on(None, &pass(&Fold::default(), rows, &[]), &terms)).1
    };
    assert_eq!(made(&[(12, 9)], None), [0, 5]);
    assert_eq!(made(&[(12, -9)], None), [-4]);
    assert_eq!(made(&[(12, 3)], None), [0]);
    assert_eq!(made(&[(12, 9), (OWN, -8)], None), [5, 0]);
    assert_eq!(made(&[(12, -9), (OWN, 8)], None), [-4]);
    let deleted = bounded(9, &[5]).announced;
    assert_eq!(made(&[(12, 9)], Some(&deleted)), []);
    assert_eq!(made(&[(12, 3)], Some(&deleted)), [5]);
}

#[test]
fn who_may_not_be_covered_is_in_doubt() {
    let stored = bounded(100, &[]);
    let pass = pass(&stored.fold, &[(OWN, -10)], &[-30, 50]);
    let cover = |held, charged_since| Cover { held: Credits::from_units(held), released: 0, charged_since };
    // 60 at the lowest, 20 below zero.
    let of = |cover: &Cover| assess_covered(&stored, &pass, Request::Settle, Some(cover));
    assert!(matches!(of(&cover(80, 0)), Assessment::Agrees { .. }));
    assert_eq!(of(&cover(81, 0)), Assessment::Doubt);
    assert_eq!(of(&cover(80, 1)), Assessment::Doubt);
    let endless = Checkpoint { overdraft: Overdraft::Unlimited, ..stored.clone() };
    let of_endless = assess_covered(&endless, &pass, Request::Settle, Some(&cover(81, 5)));
    let Assessment::Agrees { headroom: Some(headroom), .. } = of_endless else { panic!("{of_endless:?}") };
    assert!(headroom.covers(&Counted::new(u64::MAX - 1, 0, 0)));
    let nothing = cover(0, 0);
    let of_nobody = assess(&nobody(false, Some(&nothing)), &own(Request::Settle), INTERVAL);
    assert_eq!(of_nobody, Ok(Assessment::Doubt));
}

/// An enforced cap on all usage, of which nothing was announced.
fn cap(units: i128) -> (AnnouncedCap, CapSpend) {
    let id = CapId::from_bytes([1; 16]);
    let announced = AnnouncedCap { id, reached_until: None };
    let amount = Credits::from_units(units);
    let cap = Cap { id, keys: None, period: None, amount, since: i64::MIN, is_enforced: true };
    (announced, CapSpend::new(cap, Some(&announced), Clock::From(NOW)))
}

/// Of what the limit and a cap leave, the less counts.
#[test]
fn cover_ends_where_the_limit_or_a_cap_does() {
    let step = 1 << 80;
    for (balance, most) in [(7, 100), (100, 7)] {
        let (announced, spend) = cap(most * step);
        let mut stored = checkpoint(balance * step, true);
        stored.announced.caps = vec![announced];
        let pass = pass(&stored.fold, &[], &[]);
        let cover = Cover { held: Credits::ZERO, released: 0, charged_since: 0 };
        let (rows, caps) = (FoundRows::Checkpoint(&stored, &pass), [spend]);
        let found = Found { rows, cover: Some(&cover), caps: &caps };
        let assessed = assess(&found, &own(Request::Settle), INTERVAL).unwrap();
        let Assessment::Agrees { headroom: Some(headroom), .. } = assessed else { panic!("{assessed:?}") };
        let covers = |units| headroom.covers(&Counted::new(steps(Credits::from_units(units)), 0, 0));
        assert!(covers(6 * step) && !covers(8 * step), "{balance}, {most}");
    }
}

#[test]
fn what_becomes_of_a_cap_is_written() {
    let mut stored = checkpoint(100, true);
    let (announced, mut spend) = cap(10);
    stored.announced.caps = vec![announced];
    let none = pass(&stored.fold, &[], &[]);
    let with = |stored: Option<&Checkpoint>, pass: &DeltaPass, spend: &CapSpend| {
        let caps = std::slice::from_ref(spend);
        decide_on(stored, pass, &Terms { caps, ..terms(Request::Settle, None, None) })
    };
    assert_eq!(with(Some(&stored), &none, &spend), Decision::Nothing);
    spend.add(None, NOW, Credits::from_units(10)).unwrap();
    let Decision::Write(Change { cap_changes, .. }) = with(Some(&stored), &none, &spend) else {
        panic!("it is reached")
    };
    assert_eq!(cap_changes, [CapChange { id: announced.id, state: CapState::Reached { resets_at: None } }]);
    // An account without rows gets a checkpoint.
    let nobody = pass(&Fold::default(), &[], &[]);
    let made = with(None, &nobody, &cap(10).1);
    assert!(matches!(made, Decision::Write(Change { refreshes: true, rebounds: true, .. })), "{made:?}");
}

#[test]
fn what_is_forced_waits_for_the_stripe() {
    let requests = [Request::Settle, Request::RefreshIfFree, Request::Refresh, Request::Rebound];
    assert_eq!(requests.map(Request::is_forced), [false, false, true, true]);
}

#[test]
fn who_is_not_covered_is_refused() {
    let stored = bounded(100, &[]);
    let pass = pass(&stored.fold, &[(OWN, -10)], &[]);
    let holding = |units, boundaries| Terms {
        held: Some(Credits::from_units(units)),
        ..terms(Request::Settle, None, boundaries)
    };
    let covered = |terms: &Terms<'_>| decide_on(Some(&stored), &pass, terms);
    assert_eq!(covered(&holding(110, None)), Decision::Nothing);
    let refused = |available, limit| Decision::Refuse {
        available: Credits::from_units(available),
        limit: Credits::from_units(limit),
    };
    assert_eq!(covered(&holding(111, None)), refused(-21, -20));
    // By the limit that it gets.
    let strict = Boundaries::default();
    assert_eq!(covered(&holding(91, Some(&strict))), refused(-1, 0));
    let endless = Boundaries::new(Overdraft::Unlimited, Vec::new());
    assert!(matches!(covered(&holding(111, Some(&endless))), Decision::Write(Change { .. })));
    // Of an account without anything.
    let nobody = self::pass(&Fold::default(), &[], &[]);
    assert_eq!(decide_on(None, &nobody, &holding(1, Some(&strict))), refused(-1, 0));
    assert_eq!(decide_on(None, &nobody, &holding(0, Some(&strict))), Decision::Nothing);
}
