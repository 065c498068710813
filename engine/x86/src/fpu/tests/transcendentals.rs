//! The transcendental instructions against the host's, which promises 1 ulp.

use super::super::f80::Class;
use super::super::{EnvironmentLayout, F80, Fpu, FpuOp, status};
use super::host::{HostInstruction, host};
use super::operands::Random;

const LAYOUT: EnvironmentLayout = EnvironmentLayout::Protected32;

/// The place of a value on a line on which neighbours are one apart.
fn place(value: F80) -> i128 {
    let exponent = if value.exponent() == 0 && value.mantissa >> 63 != 0 { 1 } else { value.exponent() };
    // The integer bit is the exponent's for normal numbers.
    let magnitude = ((exponent as i128) << 63) + (value.mantissa & (u64::MAX >> 1)) as i128;
    if value.is_negative() { -magnitude } else { magnitude }
}

fn near(a: F80, b: F80, ulps: i128) -> bool {
    let is_finite = |value: F80| matches!(value.class(), Class::Zero | Class::Denormal | Class::Normal);
    let same_kind = a.class() == b.class() || (is_finite(a) && is_finite(b));
    a == b || (same_kind && a.is_negative() == b.is_negative() && (place(a) - place(b)).abs() <= ulps)
}

/// Which registers are empty, a bit each. Whether another is zero, valid or special is its value's matter.
fn empty(unit: &Fpu) -> u16 {
    unit.tag_word() & unit.tag_word() >> 1 & 0x5555
}

struct Case {
    name: &'static str,
    op: FpuOp,
    host: HostInstruction,
    results: usize,
    domain: fn(&mut Random, F80) -> F80,
}

fn check(case: &Case, rounds: usize, seed: u64) -> Option<String> {
    let mut random = Random::new(seed);
    let mut count = 0;
    let mut failures = Vec::new();
    for _ in 0..rounds {
        let mut unit = random.unit();
        let operand = (case.domain)(&mut random, unit.st(0));
        if !unit.is_empty(0) {
            unit.set_st(0, operand);
        }
        // What is not to 64 bits is not the subject here.
        let before = unit.saved_state(LAYOUT);
        let mut state = before;
        (case.host)(&mut state, &mut [0; 16], &mut 0);
        let mut ours = unit.clone();
        ours.execute(case.op, 0, 0);
        let mut hosts = Fpu::new();
        hosts.set_saved_state(LAYOUT, &state);
        let codes = status::C0 | status::C1 | status::C3;
        let status_same = (hosts.status_word() ^ ours.status_word()) & !codes == 0;
        let registers_same = (0..8).all(|index| {
            let ulps = if index < case.results { 1 } else { 0 };
            near(ours.st(index), hosts.st(index), ulps)
        });
        if !(status_same && registers_same && empty(&hosts) == empty(&ours)) {
            count += 1;
            if failures.len() < 4 {
                let show = |unit: &Fpu| {
                    format!(
                        "cw {:04x} sw {:04x} tw {:04x} {:x?} {:x?}",
                        unit.control_word(),
                        unit.status_word(),
                        unit.tag_word(),
                        unit.st(0),
                        unit.st(1)
                    )
                };
                failures.push(format!(
                    "{} of {}\n  host {}\n  ours {}",
                    case.name,
                    show(&unit),
                    show(&hosts),
                    show(&ours)
                ));
            }
        }
    }
    (count != 0).then(|| format!("{}: {count} of {rounds} differ\n{}", case.name, failures.join("\n")))
}

fn any(random: &mut Random, value: F80) -> F80 {
    if random.one_in(40) { F80::new(random.one_in(4), 16383, 1 << 63) } else { value }
}

fn below_1(random: &mut Random, value: F80) -> F80 {
    match value.exponent() {
        0 | 0x7fff => value,
        _ if random.one_in(50) => F80::new(value.is_negative(), 16383, 1 << 63),
        _ => F80::new(value.is_negative(), 16382 - random.below(80) as u16, value.mantissa),
    }
}

fn near_0(random: &mut Random, value: F80) -> F80 {
    match value.exponent() {
        0 => value,
        0x7fff if value.mantissa << 1 != 0 => value,
        _ => F80::new(value.is_negative(), 16383 - 3 - random.below(80) as u16, value.mantissa),
    }
}

#[test]
fn transcendentals_are_within_an_ulp_of_the_hosts() {
    let case = |name, op, host, results, domain| Case { name, op, host, results, domain };
    let cases = [
        case("f2xm1", FpuOp::F2xm1, host!("f2xm1"), 1, below_1),
        case("f2xm1", FpuOp::F2xm1, host!("f2xm1"), 1, any),
        case("fyl2xp1", FpuOp::Fyl2xp1, host!("fyl2xp1"), 1, any),
        case("fyl2x", FpuOp::Fyl2x, host!("fyl2x"), 1, any),
        case("fyl2xp1", FpuOp::Fyl2xp1, host!("fyl2xp1"), 1, near_0),
        case("fpatan", FpuOp::Fpatan, host!("fpatan"), 1, any),
        case("fsin", FpuOp::Fsin, host!("fsin"), 1, any),
        case("fcos", FpuOp::Fcos, host!("fcos"), 1, any),
        case("fsincos", FpuOp::Fsincos, host!("fsincos"), 2, any),
        case("fptan", FpuOp::Fptan, host!("fptan"), 2, any),
    ];
    let reports: Vec<String> =
        cases.iter().enumerate().filter_map(|(index, case)| check(case, 20_000, 100 + index as u64)).collect();
    assert!(reports.is_empty(), "{}", reports.join("\n\n"));
}
