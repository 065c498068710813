//! Single instructions: every form, and bytes that are none.

use crate::cases::{self, Case, Situation};
use crate::forms::{self, Form};
use crate::layout::{BASE, Bits, State, linear};
use crate::native::Host;
use crate::pair::Pair;
use crate::random::Random;
use crate::table;

/// Cases of bytes that are no instruction.
const INVALID_CASES: usize = 4000;

fn cases() -> u64 {
    std::env::var("BENCHTOP_CASES").map_or(60, |cases| cases.parse().unwrap())
}

fn modes() -> impl Iterator<Item = Bits> {
    [Bits::B64, Bits::B32].into_iter().filter(|bits| {
        let has = Host::has(*bits);
        if !has {
            println!("this host's kernel has no segment for code of {} bits: left out", bits.count());
        }
        has
    })
}

fn carry_out(pair: &mut Pair, bits: Bits, case: &Case) -> crate::pair::Outcome {
    for (offset, bytes) in &case.writes {
        pair.write(*offset, bytes);
    }
    pair.write_code((case.state.rip - BASE) as usize, &case.bytes);
    let instruction = forms::decode(bits, &case.bytes);
    pair.run(bits, &case.state, |stop, _| table::masks(&instruction, &case.state, stop))
}

fn show(case: &Case, bits: Bits) -> String {
    let State { regs, rip, flags, fx } = &case.state;
    let control = |at: usize| u16::from_le_bytes([fx[at], fx[at + 1]]);
    format!(
        "{:02x?} ({:?}, {} bits) at {rip:#x}, flags {flags:#x}, FCW {:#x}, FSW {:#x}, FTW {:#x}, MXCSR {:#x}\n  regs {regs:x?}",
        case.bytes,
        case.situation,
        bits.count(),
        control(0),
        control(2),
        fx[4],
        control(24)
    ) + &(0..8)
        .map(|number| format!("\n  ST{number} {}", crate::compare::hex(&fx[32 + number * 16..42 + number * 16])))
        .filter(|_| case.bytes.iter().any(|byte| matches!(byte, 0xd8..=0xdf)))
        .collect::<String>()
}

#[test]
fn every_form_does_what_it_does_on_the_host() {
    let shows = std::env::var_os("BENCHTOP_SHOW").is_some();
    let only = std::env::var("BENCHTOP_FORM").ok();
    let mut random = Random(0x1234_5678_9abc_def1);
    let mut pair = Pair::new(&mut random);
    let (mut run, mut left_out, mut wrong, mut count_forms) = (0u64, 0u64, Vec::new(), 0);
    for what in table::NOT_COMPARED {
        println!("not compared: {what}");
    }
    let mut stops = [0u64; 32];
    for bits in modes() {
        let forms = forms::forms(&mut random, bits);
        for (why, forms) in &forms.excluded {
            println!("{} forms of {} bits left out: {why}", forms.len(), bits.count());
        }
        count_forms += forms.encodings.len();
        for (form, encodings) in &forms.encodings {
            let name = form.name();
            if only.as_ref().is_some_and(|only| !name.contains(only.as_str())) {
                continue;
            }
            if let Some(why) =
                differs(&mut random, &mut pair, *form, encodings, shows, (&mut run, &mut left_out, &mut stops))
            {
                wrong.push(format!("{name}: {why}"));
            }
        }
    }
    println!("{count_forms} forms, {run} cases compared, {left_out} undefined, {} forms wrong", wrong.len());
    for (vector, count) in stops.iter().enumerate().filter(|(_, count)| **count > 0) {
        println!("  ended by exception {vector}: {count}");
    }
    crate::judge("every_form_does_what_it_does_on_the_host", &wrong, &format!("of {count_forms} forms wrong: "));
}

/// The first case of a form in which both differ.
fn differs(
    random: &mut Random,
    pair: &mut Pair,
    form: Form,
    encodings: &[Vec<u8>],
    shows: bool,
    (run, left_out, stops): (&mut u64, &mut u64, &mut [u64; 32]),
) -> Option<String> {
    for _ in 0..cases() {
        let bytes = &encodings[random.below(encodings.len() as u64) as usize];
        let instruction = forms::decode(form.bits, bytes);
        let case = cases::case(random, form.bits, bytes, &instruction);
        if table::is_undefined(&instruction, &case.state) {
            *left_out += 1;
            continue;
        }
        if shows {
            eprintln!("{}: {}", form.name(), show(&case, form.bits));
        }
        let outcome = carry_out(pair, form.bits, &case);
        *run += 1;
        stops[usize::from(outcome.stop.vector & 31)] += 1;
        if let Some(differs) = outcome.differs {
            return Some(format!("{differs}\n  {}", show(&case, form.bits)));
        }
    }
    None
}

#[test]
fn bytes_that_are_no_instruction_fault_as_on_the_host() {
    let mut random = Random(0x0bad_c0de_1234_5678);
    let mut pair = Pair::new(&mut random);
    let (mut run, mut wrong) = (0, Vec::new());
    for bits in modes() {
        let invalid = forms::forms(&mut random, bits).invalid;
        for number in 0..INVALID_CASES {
            let (_, bytes) = &invalid[random.below(invalid.len() as u64) as usize];
            let mut bytes = bytes.clone();
            if number % 16 == 0 {
                // Longer than an instruction can be.
                bytes = vec![[0x66, 0x2e, 0x3e][random.below(3) as usize]; 12 + random.below(6) as usize];
                bytes.push(0x90);
            }
            let mut case = cases::case(&mut random, bits, &bytes, &forms::decode(bits, &[0x90]));
            case.situation = Situation::Ordinary;
            case.state.rip = linear(crate::layout::CODE.start + 64);
            let outcome = carry_out(&mut pair, bits, &case);
            run += 1;
            if let Some(differs) = outcome.differs {
                wrong.push(format!("{differs}\n  {}", show(&case, bits)));
            }
        }
    }
    println!("{run} cases compared, {} wrong", wrong.len());
    wrong.truncate(40);
    crate::judge("bytes_that_are_no_instruction_fault_as_on_the_host", &wrong, "cases wrong: ");
}
