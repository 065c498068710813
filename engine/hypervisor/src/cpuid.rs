//! What CPU the guest sees: named models, each a table of masks over what the host can give.
//!
//! A model is a promise about the *most* a guest sees, so that a machine can move to any host that has as much.
//! Family, model and stepping are the host's, since a guest chooses its workarounds by them.
//!
//! Leaf numbers and bits: Intel SDM volume 2 CPUID, AMD APM volume 3 appendix E; leaves 4000_0000h and 4000_0010h:
//! VMware's "Mechanisms to determine if software is running in a VMware virtual machine".

use crate::ClockRates;

/// The only model so far.
pub const BENCHTOP_V1: &str = "benchtop-v1";

/// One CPUID answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuidLeaf {
    /// EAX going in.
    pub leaf: u32,
    /// ECX going in, where it matters.
    pub subleaf: u32,
    /// Whether `subleaf` matters.
    pub indexed: bool,
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
}

/// Bits a model lets through from the host.
struct Mask {
    leaf: u32,
    subleaf: u32,
    eax: u32,
    ebx: u32,
    ecx: u32,
    edx: u32,
}

const ALL: u32 = u32::MAX;

const fn bits(list: &[u32]) -> u32 {
    let mut mask = 0;
    let mut at = 0;
    while at < list.len() {
        mask |= 1 << list[at];
        at += 1;
    }
    mask
}

const fn mask(leaf: u32, subleaf: u32, eax: u32, ebx: u32, ecx: u32, edx: u32) -> Mask {
    Mask { leaf, subleaf, eax, ebx, ecx, edx }
}

/// SSE3 PCLMULQDQ SSSE3 FMA CX16 PCID SSE4.1 SSE4.2 x2APIC MOVBE POPCNT TSC-deadline AES XSAVE AVX F16C RDRAND.
const LEAF1_ECX: u32 = bits(&[0, 1, 9, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 28, 29, 30]);
/// FPU VME DE PSE TSC MSR PAE MCE CX8 APIC SEP MTRR PGE MCA CMOV PAT PSE36 CLFSH MMX FXSR SSE SSE2.
const LEAF1_EDX: u32 = bits(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 19, 23, 24, 25, 26]);
/// FSGSBASE TSC_ADJUST BMI1 AVX2 SMEP BMI2 ERMS INVPCID RDSEED ADX SMAP CLFLUSHOPT SHA, and the two that say what the
/// FPU no longer does.
const LEAF7_EBX: u32 = bits(&[0, 1, 3, 5, 6, 7, 8, 9, 10, 13, 18, 19, 20, 23, 29]);
/// UMIP RDPID.
const LEAF7_ECX: u32 = bits(&[2, 22]);
/// FSRM MD_CLEAR IBRS STIBP ARCH_CAPABILITIES SSBD.
const LEAF7_EDX: u32 = bits(&[4, 10, 26, 27, 29, 31]);
/// LAHF64 LZCNT SSE4A 3DNOWPREFETCH.
const EXT1_ECX: u32 = bits(&[0, 5, 6, 8]);
/// SYSCALL NX MMXEXT FXSR_OPT 1 GiB pages RDTSCP LM, and on AMD the copies of leaf 1.
const EXT1_EDX: u32 = bits(&[11, 20, 22, 25, 26, 27, 29]) | 0x0183_f3ff;
/// XSAVEERPTR IBPB IBRS STIBP, always-on hints, SSBD, SSB_NO.
const EXT8_EBX: u32 = bits(&[2, 12, 14, 15, 16, 17, 18, 19, 24, 26]);
/// x87, SSE, AVX.
const XCR0: u32 = 7;

const TABLE: &[Mask] = &[
    mask(0x1, 0, ALL, 0xff00, LEAF1_ECX, LEAF1_EDX),
    mask(0x2, 0, ALL, ALL, ALL, ALL),
    mask(0x4, 0, 0x3ff, ALL, ALL, 0x7),
    mask(0x4, 1, 0x3ff, ALL, ALL, 0x7),
    mask(0x4, 2, 0x3ff, ALL, ALL, 0x7),
    mask(0x4, 3, 0x3ff, ALL, ALL, 0x7),
    // ARAT.
    mask(0x6, 0, 1 << 2, 0, 0, 0),
    mask(0x7, 0, 0, LEAF7_EBX, LEAF7_ECX, LEAF7_EDX),
    mask(0xd, 0, XCR0, 0, 0, 0),
    // XSAVEOPT, XSAVEC, XGETBV with ECX 1.
    mask(0xd, 1, 7, 0, 0, 0),
    mask(0xd, 2, ALL, ALL, 0, 0),
    mask(0x8000_0001, 0, ALL, 0, EXT1_ECX, EXT1_EDX),
    mask(0x8000_0005, 0, ALL, ALL, ALL, ALL),
    mask(0x8000_0006, 0, ALL, ALL, ALL, ALL),
    // Invariant TSC.
    mask(0x8000_0007, 0, 0, 0, 0, 1 << 8),
    mask(0x8000_0008, 0, 0xffff, EXT8_EBX, 0, 0),
];

/// 48 bytes of brand string: ours, since the host's name is nobody's business.
const BRAND: &[u8; 48] = b"Benchtop v1 virtual CPU\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// First leaf of the hypervisor.
pub const HYPERVISOR_LEAF: u32 = 0x4000_0000;
/// The leaf with the clock rates.
pub const TIMING_LEAF: u32 = 0x4000_0010;

const HYPERVISOR_BIT: u32 = 1 << 31;
const X2APIC: u32 = 1 << 21;
const TSC_DEADLINE: u32 = 1 << 24;
const XSAVE: u32 = 1 << 26;
const HTT: u32 = 1 << 28;
const ARCH_CAPABILITIES: u32 = 1 << 29;
/// "Genu", the start of Intel's vendor string.
const GENUINE_INTEL: u32 = 0x756e_6547;

/// Where a model is to be shown.
#[derive(Clone, Copy, Debug)]
pub struct Placement {
    /// vCPUs of the VM, at least 1.
    pub cpus: u32,
    /// The local APIC's timer has TSC-deadline mode.
    pub tsc_deadline: bool,
    /// Clock rates.
    pub rates: ClockRates,
}

/// The answers of model `name` on a host that supports `host`, for the vCPU with this APIC id; `None` if there is no
/// such model.
pub fn model(name: &str, host: &[CpuidLeaf], placement: &Placement, apic_id: u32) -> Option<Vec<CpuidLeaf>> {
    if name != BENCHTOP_V1 {
        return None;
    }
    let find = |leaf: u32, subleaf: u32| {
        host.iter().find(|entry| entry.leaf == leaf && (!entry.indexed || entry.subleaf == subleaf)).copied()
    };
    let vendor = find(0, 0).unwrap_or_default();
    let mut leaves: Vec<CpuidLeaf> = TABLE
        .iter()
        .filter_map(|mask| {
            let entry = find(mask.leaf, mask.subleaf)?;
            Some(CpuidLeaf {
                leaf: mask.leaf,
                subleaf: mask.subleaf,
                indexed: entry.indexed,
                eax: entry.eax & mask.eax,
                ebx: entry.ebx & mask.ebx,
                ecx: entry.ecx & mask.ecx,
                edx: entry.edx & mask.edx,
            })
        })
        .collect();
    let cpus = placement.cpus.max(1);
    let logical = cpus.min(255);
    let mut has_xsave = false;
    for entry in &mut leaves {
        match (entry.leaf, entry.subleaf) {
            (1, _) => {
                entry.ebx |= logical.next_power_of_two().min(255) << 16 | (apic_id & 0xff) << 24;
                entry.ecx |= HYPERVISOR_BIT | X2APIC;
                if placement.tsc_deadline {
                    entry.ecx |= TSC_DEADLINE;
                } else {
                    entry.ecx &= !TSC_DEADLINE;
                }
                if cpus > 1 {
                    entry.edx |= HTT;
                }
                has_xsave = entry.ecx & XSAVE != 0;
            }
            // Caches: the first two levels belong to one vCPU, the third to all.
            (4, _) if entry.eax & 0x1f != 0 => {
                let sharing = if entry.eax >> 5 & 7 >= 3 { logical - 1 } else { 0 };
                entry.eax |= (logical - 1).min(63) << 26 | sharing.min(0xfff) << 14;
            }
            // EBX and ECX: sizes of the area for what is enabled and for what could be; the accelerator keeps EBX.
            (0xd, 0) => (entry.ebx, entry.ecx) = if entry.eax & 4 != 0 { (832, 832) } else { (576, 576) },
            // KVM makes the register up on other vendors' processors, and Windows does not expect it there.
            (7, 0) if vendor.ebx != GENUINE_INTEL => entry.edx &= !ARCH_CAPABILITIES,
            (0x8000_0008, _) => {
                entry.ecx = (logical - 1) | (cpus.next_power_of_two().trailing_zeros() & 0xf) << 12;
            }
            _ => {}
        }
    }
    if !has_xsave {
        leaves.retain(|entry| entry.leaf != 0xd);
    }
    let leaf = |leaf, eax, ebx, ecx, edx| CpuidLeaf { leaf, eax, ebx, ecx, edx, ..CpuidLeaf::default() };
    let max_basic = if has_xsave { 0xd } else { 0xb };
    leaves.push(leaf(0, max_basic, vendor.ebx, vendor.ecx, vendor.edx));
    leaves.push(leaf(0x8000_0000, 0x8000_0008, vendor.ebx, vendor.ecx, vendor.edx));
    // Topology: one thread a core, all cores in one package.
    let core_shift = cpus.next_power_of_two().trailing_zeros();
    for (subleaf, eax, ebx, kind) in [(0, 0, 1, 1), (1, core_shift, cpus, 2), (2, 0, 0, 0)] {
        let ecx = kind << 8 | subleaf;
        leaves.push(CpuidLeaf { leaf: 0xb, subleaf, indexed: true, eax, ebx, ecx, edx: apic_id });
    }
    for (leaf_number, part) in (0x8000_0002..).zip(BRAND.chunks_exact(16)) {
        let word = |at: usize| u32::from_le_bytes([part[at], part[at + 1], part[at + 2], part[at + 3]]);
        leaves.push(leaf(leaf_number, word(0), word(4), word(8), word(12)));
    }
    let name = [*b"VMwa", *b"reVM", *b"ware"].map(u32::from_le_bytes);
    leaves.push(leaf(HYPERVISOR_LEAF, TIMING_LEAF, name[0], name[1], name[2]));
    leaves.push(leaf(TIMING_LEAF, placement.rates.tsc_khz, placement.rates.apic_bus_khz, 0, 0));
    leaves.sort_unstable_by_key(|entry| (entry.leaf, entry.subleaf));
    Some(leaves)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generous_host() -> Vec<CpuidLeaf> {
        let mut host: Vec<_> = TABLE
            .iter()
            .map(|mask| CpuidLeaf {
                leaf: mask.leaf,
                subleaf: mask.subleaf,
                indexed: matches!(mask.leaf, 4 | 7 | 0xd),
                eax: ALL,
                ebx: ALL,
                ecx: ALL,
                edx: ALL,
            })
            .collect();
        host.push(CpuidLeaf { eax: 0x20, ebx: 1, ecx: 2, edx: 3, ..CpuidLeaf::default() });
        host
    }

    fn show(cpus: u32, apic_id: u32) -> Vec<CpuidLeaf> {
        let rates = ClockRates { tsc_khz: 2_000_000, apic_bus_khz: 1_000_000 };
        model(BENCHTOP_V1, &generous_host(), &Placement { cpus, tsc_deadline: true, rates }, apic_id).unwrap()
    }

    fn get(leaves: &[CpuidLeaf], leaf: u32, subleaf: u32) -> CpuidLeaf {
        *leaves.iter().find(|entry| (entry.leaf, entry.subleaf) == (leaf, subleaf)).unwrap()
    }

    #[test]
    fn a_generous_host_does_not_leak_through() {
        let leaves = show(2, 1);
        let one = get(&leaves, 1, 0);
        assert_eq!(one.ecx & bits(&[2, 3, 4, 5, 6, 7, 8, 15, 18, 27]), 0, "no DS, MONITOR, VMX, PDCM and the like");
        assert_eq!(one.ebx >> 24, 1);
        assert_eq!(one.ebx >> 16 & 0xff, 2);
        assert_eq!(get(&leaves, 7, 0).ebx & 1 << 16, 0, "no AVX-512");
        assert_eq!(get(&leaves, 0xd, 0).eax, 7);
        assert_eq!(get(&leaves, 0x8000_0001, 0).ecx & 1 << 2, 0, "no SVM");
        assert!(leaves.iter().all(|entry| entry.leaf != 0xa), "no performance counters");
    }

    #[test]
    fn every_vcpu_has_its_place_and_the_same_clocks() {
        for apic_id in 0..3 {
            let leaves = show(3, apic_id);
            assert_eq!(get(&leaves, 0xb, 1).eax, 2);
            assert_eq!(get(&leaves, 0xb, 1).ebx, 3);
            assert_eq!(get(&leaves, 0xb, 1).edx, apic_id);
            let hypervisor = get(&leaves, HYPERVISOR_LEAF, 0);
            assert_eq!((hypervisor.eax, hypervisor.ebx), (TIMING_LEAF, 0x6177_4d56));
            assert_eq!(get(&leaves, TIMING_LEAF, 0).eax, 2_000_000);
        }
    }

    #[test]
    fn an_unknown_model_is_refused() {
        let rates = ClockRates { tsc_khz: 1, apic_bus_khz: 1 };
        assert!(model("host", &[], &Placement { cpus: 1, tsc_deadline: false, rates }, 0).is_none());
    }
}
