//! What CPUID says.

/// A leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// EAX.
    pub leaf: u32,
    /// ECX, for leaves that have several.
    pub subleaf: Option<u32>,
    /// EAX, EBX, ECX, EDX.
    pub registers: [u32; 4],
}

/// All leaves.
#[derive(Clone, Debug, Default)]
pub struct CpuidTable {
    leaves: Vec<Leaf>,
}

impl CpuidTable {
    /// Of these leaves.
    pub fn new(leaves: Vec<Leaf>) -> Self {
        Self { leaves }
    }

    fn find(&self, leaf: u32, subleaf: u32) -> Option<[u32; 4]> {
        let is = |entry: &&Leaf| entry.leaf == leaf && entry.subleaf.is_none_or(|only| only == subleaf);
        self.leaves.iter().find(is).map(|entry| entry.registers)
    }

    /// EAX, EBX, ECX, EDX. Beyond the highest basic leaf it is that leaf's, as on Intel's (SDM volume 2, CPUID); a leaf
    /// below that is not there is all zeroes.
    pub fn lookup(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        if let Some(registers) = self.find(leaf, subleaf) {
            return registers;
        }
        let highest = |of: u32| self.find(of, 0).map_or(of, |registers| registers[0]);
        let range = leaf & 0xc000_0000;
        if range == 0x4000_0000 || leaf <= highest(leaf & 0x8000_0000) {
            return [0; 4];
        }
        self.find(highest(0), subleaf).unwrap_or_default()
    }
}
