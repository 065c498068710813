//! Random programs on both processors, compared wherever they stop.

use benchtop_x86::cpu::vector;

use crate::cases;
use crate::compare::FLAGS;
use crate::forms::{self, decode};
use crate::layout::{Bits, CODE, State, Stop, linear};
use crate::native::Host;
use crate::pair::Pair;
use crate::program::{Pieces, Program, program};
use crate::random::Random;
use crate::table::{self, Masks};

const TF: u64 = 0x100;
/// The longest a part of a program can be, in instructions: loops of five, three deep, and more.
const TRACE_MAX: usize = 100_000;
/// More stops than a program has: each of its few thousand instructions may fault a few dozen times, in loops.
const STOPS_MAX: usize = 200_000;

/// What is compared at a stop at an address.
fn masks(program: &Program, at: u64) -> Masks {
    Masks { flags: FLAGS & !program.undefined_at(at), ..table::all() }
}

/// Where the next instruction is after a stop, if the program goes on.
fn resume(program: &Program, bits: Bits, stop: &Stop, state: &mut State) -> bool {
    let end = linear(CODE.start + program.bytes.len());
    match stop.vector {
        vector::BP => {}
        vector::DB => state.flags &= !TF,
        // As a handler would, which leaves the instruction to be done.
        vector::MF => {
            state.fx[2] = 0;
            state.fx[3] &= 0x7f;
        }
        _ => {
            let at = state.rip.wrapping_sub(linear(CODE.start)) as usize;
            let Some(rest) = program.bytes.get(at..) else { return false };
            state.rip += decode(bits, rest).len() as u64;
        }
    }
    // RF would be there for the next.
    state.flags &= !0x1_0000;
    (linear(CODE.start)..end).contains(&state.rip)
}

/// Runs a program to its end. An error is where both differ.
fn run(pair: &mut Pair, bits: Bits, program: &Program, start: State, stops: &mut [u64; 32]) -> Result<(), String> {
    let mut state = start;
    for _ in 0..STOPS_MAX {
        let before = pair.snapshot();
        let outcome = pair.run(bits, &state, |stop, theirs| masks(program, place(stop, theirs)));
        if let Some(differs) = outcome.differs {
            pair.restore(&before);
            return Err(format!("{differs}\n{}", trace(pair, bits, program, &state)));
        }
        stops[usize::from(outcome.stop.vector & 31)] += 1;
        state = outcome.theirs;
        if !resume(program, bits, &outcome.stop, &mut state) {
            return Ok(());
        }
    }
    Err("it does not come to an end".to_owned())
}

/// The address of the instruction that it stopped at.
fn place(stop: &Stop, state: &State) -> u64 {
    if stop.vector == vector::BP { state.rip - 1 } else { state.rip }
}

/// The first instruction after which both differ, found by TF.
fn trace(pair: &mut Pair, bits: Bits, program: &Program, start: &State) -> String {
    let mut state = start.clone();
    for _ in 0..TRACE_MAX {
        state.flags |= TF;
        let rip = state.rip;
        let bytes = &program.bytes[(rip - linear(CODE.start)) as usize..];
        let instruction = decode(bits, bytes);
        let outcome = pair.run(bits, &state, |stop, theirs| masks(program, place(stop, theirs)));
        if let Some(differs) = outcome.differs {
            return format!(
                "  first after {:?} {:02x?} at {rip:#x}: {differs}\n  flags {:#x}, regs {:x?}",
                instruction.code(),
                &bytes[..instruction.len()],
                state.flags,
                state.regs
            );
        }
        state = outcome.theirs;
        if outcome.stop.vector != vector::DB || !resume(program, bits, &outcome.stop, &mut state) {
            break;
        }
    }
    "  not when traced".to_owned()
}

#[test]
fn random_programs_do_what_they_do_on_the_host() {
    let steps: u64 = std::env::var("BENCHTOP_STEPS").map_or(200_000, |steps| steps.parse().unwrap());
    let seed: u64 = std::env::var("BENCHTOP_SEED").map_or(1, |seed| seed.parse().unwrap());
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let shows = std::env::var_os("BENCHTOP_SHOW").is_some();
    let mut pair = Pair::new(&mut random);
    let kinds: Vec<(Bits, Pieces)> = [Bits::B64, Bits::B32]
        .into_iter()
        .filter(|bits| Host::has(*bits))
        .map(|bits| (bits, Pieces::new(bits, &forms::forms(&mut random, bits))))
        .collect();
    let count_forms: usize = kinds.iter().map(|(_, pieces)| pieces.count_forms()).sum();
    let (begin, mut count_programs, mut wrong) = (pair.guest.instructions(), 0u64, Vec::new());
    let mut stops = [0u64; 32];
    while pair.guest.instructions() - begin < steps && wrong.len() < 8 {
        // Twice as many of 64 bits.
        let (bits, pieces) = &kinds[(count_programs % 3 / 2) as usize % kinds.len()];
        let program = program(&mut random, pieces);
        if shows {
            eprintln!("program {count_programs}, {} steps so far", pair.guest.instructions() - begin);
        }
        pair.write_code(CODE.start, &program.bytes);
        for _ in 0..2 {
            let start = cases::start(&mut random, *bits);
            if let Err(why) = run(&mut pair, *bits, &program, start, &mut stops) {
                wrong.push(format!("program {count_programs}, {} bits: {why}", bits.count()));
                break;
            }
        }
        count_programs += 1;
    }
    let count_steps = pair.guest.instructions() - begin;
    println!("{count_steps} steps of {count_programs} programs of {count_forms} forms, seed {seed}");
    for (vector, count) in stops.iter().enumerate().filter(|(_, count)| **count > 0) {
        println!("  compared at exception {vector}: {count}");
    }
    assert!(count_steps >= steps || !wrong.is_empty());
    crate::judge("random_programs_do_what_they_do_on_the_host", &wrong, "programs that differ: ");
}
