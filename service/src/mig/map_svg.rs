//! A picture of guest-physical memory: one square for some consecutive pages, in the colour of what most of
//! them are.

use std::fmt::Write;

use mig_engine::inspect::PageKind;
use mig_engine::{Class, Settled};
use mig_service::human;

/// Squares in a row.
const COLUMNS: usize = 128;
/// Squares at most; more pages share one.
const CELLS: u64 = (COLUMNS * 128) as u64;
/// Pixels of a square's side.
const SIDE: usize = 6;
/// Pixels above the map.
const TOP: usize = 46;
/// Pixels of a line of the legend.
const LINE: usize = 20;

/// What a square can show, with its colour: grey where nothing is sent, blue for references, warm for residual.
const LEGEND: [(&str, &str); 20] = [
    ("zero", "#f2f2f2"),
    ("uniform", "#c9c9c9"),
    ("duplicate", "#b8a9d9"),
    ("reference", "#7fb2e5"),
    ("incompressible", "#5b2333"),
    ("text", "#f6d55c"),
    ("user pointers", "#ed8a3f"),
    ("kernel pointers", "#d1495b"),
    ("sparse", "#f3c9a5"),
    ("other", "#8f9e4f"),
    ("page tables", "#2a9d8f"),
    ("memmap", "#1d6f65"),
    ("slab", "#e76f51"),
    ("other kernel", "#b5432a"),
    ("reserved", "#7a1f1f"),
    ("shmem", "#c77dba"),
    ("anonymous", "#e9a03b"),
    ("file", "#4a7fb5"),
    ("free", "#dcdcc6"),
    ("hugetlb", "#a0522d"),
];

/// Collects pages in order, and draws them.
#[derive(Debug)]
pub(crate) struct Map {
    pages_per_cell: u64,
    counts: [u64; LEGEND.len()],
    cell: [u64; LEGEND.len()],
    in_cell: u64,
    cells: Vec<usize>,
}

impl Map {
    /// A map of so many pages.
    pub(crate) fn new(pages: u64) -> Self {
        Map {
            pages_per_cell: pages.div_ceil(CELLS).max(1),
            counts: [0; LEGEND.len()],
            cell: [0; LEGEND.len()],
            in_cell: 0,
            cells: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, kinds: &[PageKind]) {
        for kind in kinds {
            self.cell[place(*kind)] += 1;
            self.in_cell += 1;
            if self.in_cell == self.pages_per_cell {
                self.close_cell();
            }
        }
    }

    fn close_cell(&mut self) {
        let most = (0..LEGEND.len()).max_by_key(|&place| (self.cell[place], place)).unwrap_or(0);
        self.cells.push(most);
        for (count, cell) in self.counts.iter_mut().zip(&mut self.cell) {
            *count += std::mem::take(cell);
        }
        self.in_cell = 0;
    }

    /// The picture as SVG text. `title` is plain text.
    pub(crate) fn draw(mut self, title: &str) -> String {
        if self.in_cell > 0 {
            self.close_cell();
        }
        let rows = self.cells.len().div_ceil(COLUMNS);
        let (width, map_height) = (COLUMNS * SIDE + 20, rows * SIDE);
        let legend_top = TOP + map_height + 24;
        let height = legend_top + LEGEND.len().div_ceil(2) * LINE + 10;
        let title = title.replace('&', "&amp;").replace('<', "&lt;");
        let cell = human::bytes(self.pages_per_cell << 12);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n\
             <text x=\"10\" y=\"18\" font-size=\"15\">{title}</text>\n\
             <text x=\"10\" y=\"36\" fill=\"#555\">address order, left to right and down; a square is {cell}, \
             in the colour of most of its pages</text>\n"
        );
        for (row, cells) in self.cells.chunks(COLUMNS).enumerate() {
            let mut column = 0;
            for run in cells.chunk_by(|a, b| a == b) {
                let (x, y) = (10 + column * SIDE, TOP + row * SIDE);
                let (wide, colour) = (run.len() * SIDE, LEGEND[run[0]].1);
                // Writing to a string cannot fail.
                let _ = writeln!(
                    svg,
                    "<rect x=\"{x}\" y=\"{y}\" width=\"{wide}\" height=\"{SIDE}\" fill=\"{colour}\"/>"
                );
                column += run.len();
            }
        }
        let total: u64 = self.counts.iter().sum();
        for (entry, ((name, colour), pages)) in LEGEND.iter().zip(self.counts).enumerate() {
            let (x, y) = (10 + entry % 2 * (width / 2), legend_top + entry / 2 * LINE);
            let _ = writeln!(
                svg,
                "<rect x=\"{x}\" y=\"{}\" width=\"12\" height=\"12\" fill=\"{colour}\" stroke=\"#999\"/>\
                 <text x=\"{}\" y=\"{y}\">{name}: {} pages, {}</text>",
                y - 10,
                x + 18,
                human::count(pages),
                human::percent(pages, total)
            );
        }
        svg += "</svg>\n";
        svg
    }
}

fn place(kind: PageKind) -> usize {
    match kind {
        PageKind::Settled(settled) => settled.kind().min(Settled::Residual.kind() - 1),
        PageKind::Residual(class) => SETTLED + class as usize,
    }
}

/// Kinds of pages that are settled.
const SETTLED: usize = 4;
const _: () = assert!(LEGEND.len() == SETTLED + Class::ALL.len());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_is_counted_and_every_class_has_its_place() {
        let mut map = Map::new(CELLS * 2 + 1);
        let zero = PageKind::Settled(Settled::Zero);
        let other = PageKind::Residual(Class::Other);
        map.add(&[zero, zero, other, other, other, zero]);
        map.add(&[zero]);
        let svg = map.draw("a <guest>");
        assert!(svg.contains("zero: 4 pages"), "{svg}");
        assert!(svg.contains("other: 3 pages"));
        assert!(svg.contains("a &lt;guest>"));
        for class in Class::ALL {
            assert_eq!(LEGEND[place(PageKind::Residual(class))].0, class.name());
        }
    }
}
