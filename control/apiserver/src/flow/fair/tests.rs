//! Stories of a small hall: levels `a` (10 of 20 shares, lends half), `b` (8, lends nothing) and `c` (2, no queues).

use super::*;

static SMALL: &[Level] = &[
    Level {
        name: "a",
        shares: 10,
        lendable_percent: 50,
        queues: 8,
        hand: 2,
        queue_length: 3,
    },
    Level {
        name: "b",
        shares: 8,
        lendable_percent: 0,
        queues: 1,
        hand: 1,
        queue_length: 2,
    },
    Level {
        name: "c",
        shares: 2,
        lendable_percent: 0,
        queues: 0,
        hand: 0,
        queue_length: 0,
    },
];
const A: usize = 0;
const B: usize = 1;
const C: usize = 2;

/// `count` requests of a flow: what became of them, as `runs/waits/refused`.
fn come(hall: &mut Hall<u64>, level: usize, flow: u64, count: usize) -> String {
    let (mut runs, mut waits, mut refused) = (0, 0, 0);
    for _ in 0..count {
        match hall.arrive(level, flow) {
            Arrival::Runs(_) => runs += 1,
            Arrival::Waits(place) => {
                hall.wait(place, flow);
                waits += 1;
            }
            Arrival::Refused(_) => refused += 1,
        }
    }
    format!("{runs}/{waits}/{refused}")
}

#[test]
fn a_level_borrows_what_others_lend_and_nothing_else() {
    for (level, want) in [
        // 20 seats less the 8 that b keeps and the 2 that c keeps; then two queues of three.
        (A, "10/6/4"),
        // What b has, and the half that a lends: 20 - 5 - 2; then one queue of two.
        (B, "13/2/5"),
        (C, "7/0/13"),
    ] {
        let mut hall = Hall::new(SMALL, 20);
        assert_eq!(come(&mut hall, level, 7, 20), want, "level {level}");
    }
}

#[test]
fn what_a_level_keeps_is_there_for_it_under_any_load() {
    let mut hall = Hall::new(SMALL, 20);
    assert_eq!(come(&mut hall, B, 1, 20), "13/2/5");
    assert_eq!(come(&mut hall, A, 1, 6), "5/1/0", "a keeps half of its ten");
    assert_eq!(come(&mut hall, C, 1, 3), "2/0/1");
    assert_eq!(hall.running, 20, "never more than there are");
}

#[test]
fn who_has_the_least_of_its_share_is_next() {
    let mut hall = Hall::new(SMALL, 20);
    assert_eq!(come(&mut hall, B, 1, 20), "13/2/5");
    assert_eq!(come(&mut hall, A, 2, 8), "5/3/0");
    // b has 13 of 8, a has 5 of 10: the seat that b frees is a's.
    hall.leave(Place { level: B, queue: 0 });
    let (place, flow) = hall.next().unwrap();
    assert_eq!((place.level, flow), (A, 2));
    assert_eq!(hall.next(), None);
}

#[test]
fn a_flood_does_not_close_the_level_to_others() {
    let mut hall = Hall::new(SMALL, 20);
    assert_eq!(come(&mut hall, A, 7, 1000), "10/6/984");
    let quiet = (0..200)
        .find(|flow| hand(*flow, 8, 2).all(|queue| !hand(7, 8, 2).any(|other| other == queue)))
        .unwrap();
    assert_eq!(come(&mut hall, A, quiet, 1), "0/1/0");
    // One seat comes free: the quiet flow runs before all that the flood has waiting.
    hall.leave(Place {
        level: A,
        queue: hand(7, 8, 2).next().unwrap(),
    });
    assert_eq!(hall.next().map(|(_, flow)| flow), Some(quiet));
}

#[test]
fn who_gives_up_is_not_let_in() {
    let mut hall = Hall::new(SMALL, 20);
    come(&mut hall, B, 1, 13);
    let Arrival::Waits(place) = hall.arrive(B, 1) else {
        panic!("no seat is free");
    };
    hall.wait(place, 42);
    assert!(!hall.give_up(place, |who| *who == 41));
    assert!(hall.give_up(place, |who| *who == 42));
    hall.leave(place);
    assert_eq!(hall.next(), None);
    assert_eq!(come(&mut hall, B, 1, 1), "1/0/0");
}

#[test]
fn hands_are_distinct_queues() {
    for flow in [0, 1, 7, 12_345_678_901_234_567_890, u64::MAX] {
        for (queues, size) in [(128, 6), (64, 6), (16, 4), (2, 2), (1, 6)] {
            let mut drawn: Vec<usize> = hand(flow, queues, size).collect();
            drawn.sort_unstable();
            drawn.dedup();
            assert_eq!(drawn.len(), size.min(queues));
            assert!(drawn.iter().all(|queue| *queue < queues));
        }
    }
}

#[test]
fn seats_are_never_exceeded_whatever_comes() {
    let mut hall = Hall::new(crate::flow::schema::LEVELS, 600);
    let levels = crate::flow::schema::LEVELS.len();
    let mut inside: Vec<Place> = Vec::new();
    let mut random = 88_172_645_463_325_252_u64;
    for _ in 0..50_000 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let level = usize::try_from(random % levels as u64).unwrap();
        if random % 100 < 55 {
            match hall.arrive(level, random >> 32) {
                Arrival::Runs(place) => inside.push(place),
                Arrival::Waits(place) => hall.wait(place, random),
                Arrival::Refused(_) => {}
            }
        } else if !inside.is_empty() {
            let at = usize::try_from(random >> 20).unwrap() % inside.len();
            hall.leave(inside.swap_remove(at));
            while let Some((place, _)) = hall.next() {
                inside.push(place);
            }
        }
        assert!(inside.len() <= 600);
        assert_eq!(hall.running, inside.len());
    }
}
