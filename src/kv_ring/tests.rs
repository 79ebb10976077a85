//! What a query sees, however the stream was cut, moved and taken back.

use super::*;

/// The slots that a column attends to, by the rule of the kernels.
fn seen(column: &Column, slots: u32) -> Vec<u32> {
    let behind = |distance: u32| {
        let in_ring = column.slot - column.sinks.min(column.slot);
        if in_ring >= distance { column.slot - distance } else { column.slot + slots - column.sinks - distance }
    };
    (0..=column.cached).map(|j| if j < column.sinks { j } else { behind(column.cached - j) }).collect()
}

#[test]
fn a_query_sees_the_sinks_the_window_and_itself_however_the_stream_was_cut() {
    for (sinks, window, slack) in [(0, 1, 1), (0, 5, 3), (1, 0, 4), (1, 4, 2), (4, 7, 5), (4, 28, 8)] {
        for start in [0, 1_u64 << 40, (1 << 32) - 3] {
            let mut ring = KvRing::new(sinks, window, slack);
            ring.reset(start);
            let mut token_in_slot = vec![None; ring.slots() as usize];
            let mut index = 0_u64;
            for chunk in (1..=slack).cycle().take(60) {
                let columns: Vec<Column> = (0..chunk).map(|ahead| ring.column(ahead, 0, 0)).collect();
                for (n, column) in (0..).zip(&columns) {
                    token_in_slot[column.slot as usize] = Some(index + n);
                }
                for (n, column) in (0..).zip(&columns) {
                    let p = index + n;
                    let tokens: Vec<_> =
                        seen(column, ring.slots()).iter().map(|&slot| token_in_slot[slot as usize]).collect();
                    let wanted = (0..=p).filter(|&t| t < u64::from(sinks) || t + u64::from(window) >= p);
                    assert_eq!(tokens, wanted.map(Some).collect::<Vec<_>>(), "S {sinks} R {window} p {p}");
                }
                ring.advance(chunk);
                index += u64::from(chunk);
            }
        }
    }
}

/// The first token besides the sinks that token `p` sees, told step by step: tokens come, and as long as there are
/// more than sinks and window, the oldest turn goes, or the oldest token of the only one.
fn window_starts(sinks: u64, window: u64, turns: &[u64], tokens: u64) -> Vec<u64> {
    let mut begin = sinks;
    let step = |p: u64| {
        while p.saturating_sub(begin) > window {
            begin = turns.iter().copied().find(|&turn| turn > begin && turn <= p).unwrap_or(begin + 1);
        }
        begin
    };
    (0..tokens).map(step).collect()
}

#[test]
fn whole_turns_leave_and_only_a_turn_longer_than_the_window_loses_tokens() {
    for (sinks, window, slack) in [(0, 5, 3), (1, 4, 2), (4, 28, 8), (9, 23, 8)] {
        for lengths in [&[3, 1, 4, 1, 5, 9, 2, 6][..], &[40, 2, 2, 60, 7], &[1], &[28, 29, 27]] {
            let mut turns = vec![2];
            while turns.last().is_some_and(|&last| last < 400) {
                turns.push(turns[turns.len() - 1] + lengths[turns.len() % lengths.len()]);
            }
            let wanted = window_starts(u64::from(sinks), u64::from(window), &turns, 400);
            let mut ring = KvRing::new(4, window + sinks - 4.min(window + sinks), slack);
            ring.pin(sinks);
            let mut token_in_slot = vec![None; ring.slots() as usize];
            let mut dropped_early = 0;
            for p in 0..400 {
                if turns.contains(&p) {
                    ring.begin_turn(p);
                }
                let column = ring.column(0, 0, 0);
                token_in_slot[column.slot as usize] = Some(p);
                let tokens: Vec<_> =
                    seen(&column, ring.slots()).iter().map(|&slot| token_in_slot[slot as usize]).collect();
                let is_seen = |&t: &u64| t < u64::from(sinks) || t >= wanted[p as usize];
                assert_eq!(tokens, (0..=p).filter(is_seen).map(Some).collect::<Vec<_>>(), "S {sinks} p {p}");
                dropped_early += u32::from(column.cached < column.capacity && p > 200);
                ring.advance(1);
                assert!(ring.turns().count() <= 1 + (window + slack) as usize, "turns are forgotten");
            }
            assert!(dropped_early > 0 || lengths == [1], "whole turns leave: {lengths:?}");
        }
    }
}

#[test]
fn the_kernel_follows_the_ring_as_far_as_it_is_sent() {
    let mut ring = KvRing::new(2, 10, 8);
    let mut jumps = 0;
    for p in 0..200_u64 {
        if p % 7 == 3 {
            ring.begin_turn(p);
        }
        let most = 8.min(10 - p % 7) as u32; // a turn begins between two runs
        let run = ring.run(0, most);
        let first = ring.column(0, 0, 0);
        for n in 0..most {
            let column = ring.column(n, 0, 0);
            let is_followed = column.cached == (first.cached + n).min(first.capacity);
            assert_eq!(is_followed, n < run, "token {n} of {run} at {p}");
            if !is_followed {
                jumps += 1;
                break;
            }
        }
        ring.advance(1);
    }
    assert!(jumps > 10);
}

#[test]
fn taking_tokens_back_is_as_if_they_had_never_been_written() {
    let mut ring = KvRing::new(2, 5, 4);
    ring.advance(20);
    let before = ring.clone();
    ring.advance(4);
    ring.take_back(4);
    assert_eq!(ring, before);
}

#[test]
fn a_query_sees_its_segment_and_the_memory_of_all_before_it() {
    for (length, slack) in [(1, 97), (5, 97), (32, 97), (33, 100), (64, 128), (97, 97)] {
        let mut ring = KvRing::with_segments(length, slack);
        let copies = crate::kernels::memory::copies(length) as usize;
        let mut token_in_slot = vec![None; ring.slots() as usize];
        let mut segments_in_copy = vec![None; 1 + copies]; // of copy 0 nothing is read
        segments_in_copy[0] = Some(0);
        let (mut back, mut newest) = ((1..=96).cycle(), 0);
        let steps = [1, 7, slack, 2, 33, 60, 31].into_iter().cycle().take(400);
        for (n, most) in steps.enumerate() {
            if let Some(column) = ring.filled(0, 0) {
                let (copy, last) = ((column.capacity / length) as usize, ring.written() - 1);
                assert_eq!(segments_in_copy[copy], Some(last / u64::from(length)), "folded onto what was before");
                for behind in 0..length {
                    let slot = column.slot_behind(behind as usize, ring.slots() as usize);
                    assert_eq!(token_in_slot[slot], Some(last - u64::from(behind)), "whole");
                }
                segments_in_copy[1 + copy % copies] = Some(last / u64::from(length) + 1);
            }
            let step = ring.step(0, most);
            for ahead in 0..step {
                let column = ring.column(ahead, 0, 0);
                let index = ring.written() + u64::from(ahead);
                assert!(ahead == 0 || (ring.follows(ahead) && ring.filled(ahead, 0).is_none()));
                token_in_slot[column.slot as usize] = Some(index);
                let first = index - index % u64::from(length);
                let tokens: Vec<_> =
                    seen(&column, ring.slots()).iter().map(|&slot| token_in_slot[slot as usize]).collect();
                assert_eq!(tokens, (first..=index).map(Some).collect::<Vec<_>>(), "N {length} p {index}");
                let copy = (column.capacity / length) as usize;
                assert_eq!(segments_in_copy[copy], Some(index / u64::from(length)), "N {length} p {index}");
                assert_eq!(column.capacity % length, length - 1);
            }
            assert!(step == most || !ring.follows(step), "no further than to the border");
            ring.advance(step);
            newest = ring.written().max(newest);
            if n % 9 == 8 {
                // What is computed ahead and what is taken back, together never more than 96 behind the newest token.
                let most = 96 - (newest - ring.written()).min(96);
                ring.take_back(back.next().unwrap_or(0).min(most).min(ring.written()) as u32);
            }
        }
        ring.forget();
        assert_eq!((ring.filled(0, 0), ring.column(0, 0, 0).capacity), (None, length - 1));
    }
}
