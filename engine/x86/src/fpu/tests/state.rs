//! The state and the MMX registers against the host's.

use super::super::{EnvironmentLayout, Fpu, FpuOp, FxsaveFormat, SavedState};
use super::host::{self, HostInstruction, host};
use super::operands::Random;

const LAYOUT: EnvironmentLayout = EnvironmentLayout::Protected32;
const ROUNDS: usize = 5_000;

fn without_pointers(mut state: SavedState) -> SavedState {
    state[12..28].fill(0);
    state
}

#[test]
fn what_frstor_loads_fnsave_stores() {
    let mut random = Random::new(40);
    let nothing: HostInstruction = host!("nop");
    for _ in 0..ROUNDS {
        // The host executes a waiting instruction or two in between, so nothing may be pending.
        let mut image = random.unit().saved_state(LAYOUT);
        image[0..2].copy_from_slice(&(random.next() as u16 | 0x3f).to_le_bytes());
        image[4..6].copy_from_slice(&(random.next() as u16).to_le_bytes());
        image[8..10].copy_from_slice(&(random.next() as u16).to_le_bytes());
        let mut hosts = image;
        nothing(&mut hosts, &mut [0; 16], &mut 0);
        let mut unit = Fpu::new();
        unit.set_saved_state(LAYOUT, &image);
        let ours = unit.saved_state(LAYOUT);
        assert_eq!(without_pointers(hosts), without_pointers(ours), "{image:02x?}");
    }
}

#[test]
fn fxsave_is_the_hosts() {
    let mut random = Random::new(41);
    for _ in 0..ROUNDS {
        let unit = random.unit();
        let hosts = host::fxsave(&unit.saved_state(LAYOUT), [0x5a; 512]);
        let mut ours = [0x5a; 512];
        unit.fxsave(&mut ours, FxsaveFormat::Wide);
        assert_eq!(hosts[..6], ours[..6]);
        assert_eq!(hosts[32..160], ours[32..160]);
        assert_eq!(ours[24..32], [0x5a; 8]);
        assert_eq!(ours[160..], [0x5a; 352]);
        let mut again = Fpu::new();
        again.fxrstor(&ours, FxsaveFormat::Wide);
        assert_eq!(again, unit);
    }
}

#[test]
fn fxrstor_is_the_hosts() {
    let mut random = Random::new(42);
    for _ in 0..ROUNDS {
        let mut area = [0; 512];
        random.unit().fxsave(&mut area, FxsaveFormat::Wide);
        for word in [0, 2, 4] {
            area[word..word + 2].copy_from_slice(&(random.next() as u16).to_le_bytes());
        }
        let hosts = host::fxrstor(area);
        let mut unit = Fpu::new();
        unit.fxrstor(&area, FxsaveFormat::Wide);
        assert_eq!(without_pointers(hosts), without_pointers(unit.saved_state(LAYOUT)), "{:02x?}", &area[..8]);
    }
}

#[test]
fn environment_is_the_hosts() {
    let mut random = Random::new(43);
    for _ in 0..ROUNDS {
        let mut unit = random.unit();
        // It may leave an unmasked exception.
        unit.execute(FpuOp::Fsqrt, 0, 0);
        let hosts = host::environments(&unit.saved_state(LAYOUT));
        let ours = unit.environment(LAYOUT);
        assert_eq!(hosts.wide[..12], ours[..12]);
        assert_eq!(hosts.wide[26..28], ours[26..28]);
        unit.commit_environment();
        assert_eq!(hosts.control_after, unit.control_word());
        assert_eq!(hosts.status_after, unit.status_word());
        // The second store of the host comes after the first.
        let ours = unit.environment(EnvironmentLayout::Protected16);
        assert_eq!(hosts.narrow[..6], ours[..6]);
        let mut again = Fpu::new();
        again.set_environment(EnvironmentLayout::Protected16, &ours);
        assert_eq!(again.status_word(), unit.status_word());
        assert!((0..8).all(|index| again.is_empty(index) == unit.is_empty(index)));
    }
}

#[test]
fn mmx_registers_are_the_hosts() {
    let mut random = Random::new(44);
    let write: HostInstruction = host!("movq mm3, qword ptr [rcx]");
    let read: HostInstruction = host!("movq qword ptr [rcx], mm5");
    let empty: HostInstruction = host!("emms");
    for _ in 0..ROUNDS {
        let unit = random.unit();
        let value = random.next();
        let mut memory = [0; 16];
        memory[..8].copy_from_slice(&value.to_le_bytes());
        let run = |instruction: HostInstruction, memory: &mut [u8; 16]| {
            let mut state = unit.saved_state(LAYOUT);
            instruction(&mut state, memory, &mut 0);
            without_pointers(state)
        };
        let mut ours = unit.clone();
        ours.enter_mmx();
        assert_eq!(run(read, &mut memory), without_pointers(ours.saved_state(LAYOUT)));
        assert_eq!(memory[..8], ours.mmx(5).to_le_bytes());
        memory[..8].copy_from_slice(&value.to_le_bytes());
        ours.set_mmx(3, value);
        assert_eq!(run(write, &mut memory), without_pointers(ours.saved_state(LAYOUT)));
        let mut ours = unit.clone();
        ours.emms();
        assert_eq!(run(empty, &mut memory), without_pointers(ours.saved_state(LAYOUT)));
    }
}
