use super::*;

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
fn what_is_left_of_segments_moves_together() {
    let mut space = Space::new();
    let ids: Vec<u64> = (0..5).map(|_| space.begin(Kind::Log).unwrap().segment).collect();
    for (index, id) in ids.iter().enumerate() {
        space.mark(Address::new(*id, 10), 100 * (index as u64 + 1));
        space.end(*id);
    }
    // The last one is still needed where it is.
    let chosen = space.choose(ids[4], 8);
    assert_eq!(chosen.len(), 1, "{chosen:?}");
    assert_eq!(chosen[0].iter().map(|one| one.segment).collect::<Vec<_>>(), &ids[..4]);
    let place = space.begin_move().unwrap();
    space.moved(&chosen[0], place);
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
    let chosen = space.choose(u64::MAX, 8);
    assert!(chosen.is_empty(), "900 and 500 do not fit one place");
    space.release((200..310).map(|slot| Address::new(ids[2], slot)));
    space.release((10..410).map(|slot| Address::new(ids[3], slot)));
    settle(&mut space);
    let chosen = space.choose(u64::MAX, 8);
    assert_eq!(chosen.len(), 1);
    let next = space.begin_move().unwrap();
    space.moved(&chosen[0], next);
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
    let chosen = space.choose(u64::MAX, 1);
    let place = space.begin_move().unwrap();
    space.moved(&chosen[0], place);
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
