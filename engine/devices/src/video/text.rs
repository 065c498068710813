//! Text modes: the characters, for whoever wants to read the screen, and code page 437, which VGA fonts follow.

use benchtop_memory::SharedRegion;

use super::render::{ScreenState, fetch};

/// Code page 437 as Unicode. The control codes are the pictures a VGA font has for them; 00h and FFh are blank.
const CODE_PAGE_437: &str = concat!(
    " ☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼",
    " !\"#$%&'()*+,-./0123456789:;<=>?",
    "@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_",
    "`abcdefghijklmnopqrstuvwxyz{|}~⌂",
    "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒ",
    "áíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐",
    "└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀",
    "αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■ ",
);

/// Where the cells of a text screen are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TextLayout {
    /// Cells across, at most 256.
    pub columns: usize,
    /// Cells down, at most 1024.
    pub rows: usize,
    /// Lines of a cell, 1 to 64.
    pub cell_lines: usize,
    /// Whether each line is shown twice.
    pub double_scan: bool,
    /// Dots of a cell, without doubling: 8 or 9.
    pub cell_dots: usize,
    /// How often each dot is repeated: 1 or 2.
    pub dot_repeat: usize,
}

impl ScreenState {
    /// The layout, where the screen is in a text mode.
    pub(super) fn text_layout(&self) -> Option<TextLayout> {
        if self.mode.is_some() || self.registers.is_graphics() {
            return None;
        }
        let registers = &self.registers;
        let double_scan = registers.crtc[9] & 0x80 != 0;
        let cell_lines = (usize::from(registers.crtc[9] & 0x1f) + 1) << usize::from(double_scan);
        Some(TextLayout {
            columns: registers.displayed_columns(),
            rows: (registers.displayed_lines() / cell_lines).max(1),
            cell_lines,
            double_scan,
            cell_dots: if registers.sequencer[1] & 1 != 0 { 8 } else { 9 },
            dot_repeat: if registers.sequencer[1] & 8 != 0 { 2 } else { 1 },
        })
    }

    /// Where in video memory the cells of text row `row` are. A cell is one 32-bit word: character, attribute, font.
    pub(super) fn text_row_address(&self, layout: &TextLayout, row: usize) -> usize {
        let registers = &self.registers;
        let top = row * layout.cell_lines;
        match top.checked_sub(registers.line_compare() + 1) {
            Some(below_split) => below_split / layout.cell_lines * registers.line_bytes(),
            None => registers.start_address() * 4 + row * registers.line_bytes(),
        }
    }

    /// The characters on the screen, a line each without trailing spaces, where it is in a text mode. A blanked
    /// screen still has its text.
    pub fn text(&self, vram: &SharedRegion) -> Option<Vec<String>> {
        let layout = self.text_layout()?;
        let code_page: Vec<char> = CODE_PAGE_437.chars().collect();
        let mut cells = vec![0; layout.columns * 4];
        let line = |row| {
            fetch(vram, self.text_row_address(&layout, row), &mut cells);
            let line: String =
                cells.chunks_exact(4).map(|cell| code_page.get(usize::from(cell[0])).copied().unwrap_or(' ')).collect();
            line.trim_end_matches(' ').to_owned()
        };
        Some((0..layout.rows).map(line).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::CODE_PAGE_437;

    #[test]
    fn code_page_is_complete() {
        let page: Vec<char> = CODE_PAGE_437.chars().collect();
        assert_eq!(page.len(), 256);
        assert_eq!((page[0x41], page[0xb3], page[0xdb], page[0xe1], page[0xff]), ('A', '│', '█', 'ß', ' '));
    }
}
