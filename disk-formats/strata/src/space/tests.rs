use super::*;

/// Moves what is chosen.
fn move_all(space: &mut Space, log: u64, most: usize) -> Vec<u32> {
    let moves = space.choose(log, usize::MAX, most);
    let begun = moves.places.len() - usize::from(moves.filling.is_some());
    let places: Vec<u32> = (0..begun).map(|_| space.begin_move().unwrap()).collect();
    space.moved(&moves, &places);
    places
}

fn settle(space: &mut Space) -> Vec<Range> {
    let released = space.take_released();
    let freed = space.settle(released);
    space.given_back(&freed.places);
    freed.ranges
}

#[test]
fn a_place_is_used_again_when_nothing_in_it_is_needed() {
    let mut space = Space::new();
    let Begun { segment: id, place, fresh } = space.begin(Kind::Log).unwrap();
    assert!(fresh);
    space.mark(Address::new(id, 0), 101);
    space.end(id);
    space.release((1..101).map(|slot| Address::new(id, slot)));
    assert_eq!(settle(&mut space), [(place_offset(place) + 4096, 100 * 4096)]);
    assert_eq!(space.usage(), Usage { live_blocks: 1, used_blocks: 1024 });
    space.release([Address::new(id, 0)]);
    assert!(space.save().segments.is_empty());
    assert!(settle(&mut space).is_empty(), "a spare place is kept");
    let again = space.begin(Kind::Pages).unwrap();
    assert_eq!(again, Begun { segment: id + 1, place, fresh: false }, "numbers are not used twice");
    space.end(again.segment);
    settle(&mut space);
    // While the host takes it back nobody may write there.
    let freed = space.give_back(0, 0);
    assert_eq!(freed.ranges, [(place_offset(place), SEGMENT_BYTES)]);
    let other = space.begin(Kind::Log).unwrap();
    assert!(other.fresh && other.place != place);
    space.given_back(&freed.places);
    assert_eq!(space.begin(Kind::Log).unwrap().place, place);
    // What was reserved behind the last place.
    let end = space.end_bytes();
    let freed = space.give_back(0, end + 2 * SEGMENT_BYTES);
    assert_eq!(freed.ranges, [(end, SEGMENT_BYTES), (end + SEGMENT_BYTES, SEGMENT_BYTES)]);
    let behind = space.begin(Kind::Log).unwrap();
    assert_eq!(place_offset(behind.place), end + 2 * SEGMENT_BYTES);
}

#[test]
fn it_survives_a_save_and_refuses_contradictions() {
    let mut space = Space::new();
    for _ in 0..3 {
        let id = space.begin(Kind::Log).unwrap().segment;
        space.mark(Address::new(id, 7), 1);
    }
    let saved = space.save();
    let restored = Space::restore(saved.clone()).unwrap();
    assert_eq!(restored.usage().live_blocks, 3);
    let mut twice = saved.clone();
    twice.segments[1].place = 0;
    assert!(Space::restore(twice).is_none());
    let mut far = saved;
    far.segments[1].place = 3;
    assert!(Space::restore(far).is_none());
}

#[test]
fn the_log_may_name_only_free_places() {
    let mut space = Space::new();
    let Begun { segment: id, place, .. } = space.begin(Kind::Log).unwrap();
    assert!(space.adopt(id, place, 10), "known");
    assert!(!space.adopt(id + 1, place, 10), "in use");
    assert!(space.adopt(id + 1, 5, 10));
    assert!(!space.adopt(id + 1, 6, 10), "a known number elsewhere");
    assert!(!space.adopt(id + 2, 10, 10), "behind the end of the file");
}

#[test]
fn a_log_begins_where_it_was_written() {
    let mut space = Space::new();
    let [pages, log, next] = [Kind::Pages, Kind::Log, Kind::Log].map(|kind| {
        let begun = space.begin(kind).unwrap();
        space.mark(Address::new(begun.segment, 0), 10);
        begun
    });
    let cut =
        |space: &Space, begun: Begun, place| Space::restore(space.save()).unwrap().cut_log(begun.segment, place, 5);
    assert!(cut(&space, log, log.place));
    assert!(!cut(&space, log, next.place), "elsewhere");
    assert!(!cut(&space, pages, pages.place), "pages");
    [pages, log, next].iter().for_each(|begun| space.end(begun.segment));
    move_all(&mut space, next.segment, 1);
    assert!(!cut(&space, log, log.place), "moved");
    assert!(cut(&space, next, next.place));
}

#[test]
fn what_is_left_of_segments_moves_together() {
    let mut space = Space::new();
    let ids: Vec<u64> = (0..5).map(|_| space.begin(Kind::Log).unwrap().segment).collect();
    for (index, id) in ids.iter().enumerate() {
        space.mark(Address::new(*id, 10), 100 * (index as u64 + 1));
        space.end(*id);
    }
    // The last one is still needed where it is.
    let moves = space.choose(ids[4], usize::MAX, 8);
    assert_eq!(moves.places.len(), 1, "{moves:?}");
    assert_eq!(moves.places[0].iter().map(|one| one.segment).collect::<Vec<_>>(), &ids[..4]);
    let place = space.begin_move().unwrap();
    space.moved(&moves, &[place]);
    assert_eq!(space.locate(Address::new(ids[1], 12)), Some(place_offset(place) + (100 + 2) * 4096));
    assert_eq!(space.locate(Address::new(ids[1], 9)), None, "it was not needed");
    let restored = Space::restore(space.save()).unwrap();
    assert_eq!(restored.locate(Address::new(ids[3], 10)), Some(place_offset(place) + 600 * 4096));
    assert_eq!(space.usage().used_blocks, 6 * 1024);
    settle(&mut space);
    assert_eq!(space.usage(), Usage { live_blocks: 1500, used_blocks: 2 * 1024 });
    // A moved segment goes, and moves again.
    space.release((10..110).map(|slot| Address::new(ids[0], slot)));
    settle(&mut space);
    assert!(space.choose(u64::MAX, usize::MAX, 8).is_empty(), "900 and 500 take two places");
    space.release((200..310).map(|slot| Address::new(ids[2], slot)));
    space.release((10..410).map(|slot| Address::new(ids[3], slot)));
    settle(&mut space);
    assert_eq!(move_all(&mut space, u64::MAX, 8).len(), 1);
    settle(&mut space);
    assert_eq!(space.usage().used_blocks, 1024);
    assert!(Space::restore(space.save()).is_some());
}

#[test]
fn a_head_can_not_put_two_things_in_one_block() {
    let mut space = Space::new();
    let ids: Vec<u64> = (0..2).map(|_| space.begin(Kind::Log).unwrap().segment).collect();
    for id in &ids {
        space.mark(Address::new(*id, 0), 10);
        space.end(*id);
    }
    move_all(&mut space, u64::MAX, 1);
    let saved = space.save();
    assert!(Space::restore(saved.clone()).is_some());
    let mut over = saved.clone();
    over.segments[1].packed = Some((5, Vec::new()));
    assert!(Space::restore(over).is_none());
    let mut behind = saved.clone();
    behind.segments[1].packed = Some((1020, Vec::new()));
    assert!(Space::restore(behind).is_none());
    let mut less = saved;
    less.segments[1].packed = Some((10, Bits::NONE.save()));
    assert!(Space::restore(less).is_none(), "needed and not there");
}

/// Segments that are more than half full do not go into one place whole; in pieces they do.
#[test]
fn a_segment_may_be_in_pieces() {
    let mut space = Space::new();
    let ids: Vec<u64> = (0..5).map(|_| space.begin(Kind::Log).unwrap().segment).collect();
    let mut needed = Vec::new();
    for id in &ids {
        let slots = (0..SEGMENT_BLOCKS).filter(|slot| slot % 5 != id % 5 && *slot > 2);
        let addresses: Vec<Address> = slots.map(|slot| Address::new(*id, slot)).collect();
        addresses.iter().for_each(|address| space.mark(*address, 1));
        space.end(*id);
        needed.extend(addresses);
    }
    let total = needed.len() as u64;
    let check = |space: &Space, needed: &[Address]| {
        let mut offsets: Vec<u64> = needed.iter().map(|address| space.locate(*address).unwrap()).collect();
        for address in needed {
            let (offset, run) = space.locate_run(*address).unwrap();
            for index in 0..run {
                let next = space.locate(Address::new(address.segment(), address.slot() + index));
                assert_eq!(next, Some(offset + index * BLOCK_BYTES as u64));
            }
        }
        offsets.sort_unstable();
        offsets.dedup();
        assert_eq!(offsets.len(), needed.len(), "each has a block of its own");
    };
    assert!(space.choose(u64::MAX, usize::MAX, 3).is_empty());
    assert_eq!(move_all(&mut space, u64::MAX, 4).len(), 4);
    check(&space, &needed);
    settle(&mut space);
    assert_eq!(space.usage(), Usage { live_blocks: total, used_blocks: 4 * 1024 });
    // Again and again, with less each time.
    for round in 0..6 {
        let gone: Vec<Address> = needed.iter().copied().filter(|address| address.slot() % 7 == round).collect();
        needed.retain(|address| address.slot() % 7 != round);
        space.release(gone);
        settle(&mut space);
        let saved = space.save();
        let restored = Space::restore(saved.clone()).unwrap();
        check(&restored, &needed);
        assert_eq!(restored.usage().live_blocks, needed.len() as u64);
        move_all(&mut space, u64::MAX, 8);
        settle(&mut space);
        check(&space, &needed);
        let fewest = (needed.len() as u64).div_ceil(1024);
        assert!(space.usage().used_blocks <= (fewest + 1) * 1024, "{:?}", space.usage());
    }
    // A block is in one piece only, and a piece is not empty.
    let saved = space.save();
    let twice = saved.segments.iter().position(|segment| segment.id == saved.segments[0].id).unwrap();
    let mut again = saved.clone();
    again.segments.push(SegmentV1 { place: again.places, ..again.segments[twice].clone() });
    again.places += 1;
    assert!(Space::restore(again).is_none());
    let mut empty = saved;
    let bits = (Bits::NONE.save(), Some((0, Bits::NONE.save())));
    empty.segments.push(SegmentV1 {
        place: empty.places,
        live: bits.0,
        packed: bits.1,
        ..empty.segments[twice].clone()
    });
    empty.places += 1;
    assert!(Space::restore(empty).is_none());
    space.release(needed);
    settle(&mut space);
    assert_eq!(space.usage(), Usage::default());
}
