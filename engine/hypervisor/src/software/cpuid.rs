//! What the software CPU can do, as CPUID says it.

use benchtop_x86::cpuid::{CpuidTable, Leaf};

use crate::ClockRates;
use crate::cpuid::{self, CpuidLeaf, Placement};

const fn bits(numbers: &[u32]) -> u32 {
    let mut bits = 0;
    let mut index = 0;
    while index < numbers.len() {
        bits |= 1 << numbers[index];
        index += 1;
    }
    bits
}

/// Family 6, model 26, stepping 5: the first processor of the level that is offered here.
const SIGNATURE: u32 = 0x0001_06a5;
/// SSE3, PCLMULQDQ, SSSE3, CMPXCHG16B, PCID, SSE4.1, SSE4.2, x2APIC, MOVBE, POPCNT, TSC deadline, AES.
const LEAF_1_ECX: u32 = bits(&[0, 1, 9, 13, 17, 19, 20, 21, 22, 23, 24, 25]);
/// FPU, DE, PSE, TSC, MSR, PAE, MCE, CX8, APIC, SEP, MTRR, PGE, MCA, CMOV, PAT, PSE-36, CLFLUSH, MMX, FXSR, SSE, SSE2.
const LEAF_1_EDX: u32 = bits(&[0, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 19, 23, 24, 25, 26]);
/// FSGSBASE, SMEP, fast strings, INVPCID, SMAP.
const LEAF_7_EBX: u32 = bits(&[0, 7, 9, 10, 20]);
/// UMIP.
const LEAF_7_ECX: u32 = bits(&[2]);
/// LAHF in 64-bit mode.
const EXTENDED_ECX: u32 = bits(&[0]);
/// SYSCALL, NX, pages of 1 GiB, RDTSCP, 64-bit mode.
const EXTENDED_EDX: u32 = bits(&[11, 20, 26, 27, 29]);

/// All that there is, as a host would say it.
fn host() -> Vec<CpuidLeaf> {
    let leaf = |leaf, eax, ebx, ecx, edx| CpuidLeaf { leaf, eax, ebx, ecx, edx, ..CpuidLeaf::default() };
    let vendor = [*b"Genu", *b"ineI", *b"ntel"].map(u32::from_le_bytes);
    vec![
        leaf(0, 0xb, vendor[0], vendor[2], vendor[1]),
        // CLFLUSH of 64 bytes.
        leaf(1, SIGNATURE, 8 << 8, LEAF_1_ECX, LEAF_1_EDX),
        CpuidLeaf { leaf: 7, indexed: true, ebx: LEAF_7_EBX, ecx: LEAF_7_ECX, ..CpuidLeaf::default() },
        leaf(0x8000_0000, 0x8000_0008, 0, 0, 0),
        leaf(0x8000_0001, 0, 0, EXTENDED_ECX, EXTENDED_EDX),
        // 40 bits of physical addresses, 48 of linear ones.
        leaf(0x8000_0008, 40 | 48 << 8, 0, 0, 0),
    ]
}

/// The leaves of a vCPU; None for a model that is not known.
pub fn table(model: &str, cpus: u32, rates: ClockRates, id: u32) -> Option<CpuidTable> {
    let placement = Placement { cpus, tsc_deadline: true, rates };
    let leaves = cpuid::model(model, &host(), &placement, id)?;
    let leaf = |leaf: &CpuidLeaf| Leaf {
        leaf: leaf.leaf,
        subleaf: leaf.indexed.then_some(leaf.subleaf),
        registers: [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx],
    };
    Some(CpuidTable::new(leaves.iter().map(leaf).collect()))
}
