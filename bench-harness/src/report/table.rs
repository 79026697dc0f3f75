//! Plain tables: columns as wide as they need to be, two spaces between them.

use std::fmt::Write;

/// A table that is filled row by row.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these heads.
    pub(crate) fn new(heads: &[&str]) -> Self {
        let mut table = Table { rows: Vec::new() };
        table.row(heads);
        table
    }

    /// Adds a row; cells that are missing are empty.
    pub(crate) fn row(&mut self, cells: &[impl AsRef<str>]) {
        self.rows.push(cells.iter().map(|cell| cell.as_ref().to_owned()).collect());
    }

    /// All rows, the first of which are the heads.
    pub(crate) fn rows(&self) -> &[Vec<String>] {
        &self.rows
    }

    /// The table with its first `left` columns aligned to the left and the others to the right.
    pub(crate) fn left(&self, left: usize) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let cell = |row: &[String], column: usize| row.get(column).cloned().unwrap_or_default();
        let width = |column| self.rows.iter().map(|row| cell(row, column).chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (column, &width) in widths.iter().enumerate() {
                let cell = cell(row, column);
                // Writing to a string can't fail.
                let _ = if column < left {
                    write!(line, "  {cell:<width$}")
                } else {
                    write!(line, "  {cell:>width$}")
                };
            }
            text += line.trim_end();
            text += "\n";
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["who", "bytes"]);
        table.row(&["zstd -1", "1,234"]);
        table.row(&["é"]);
        assert_eq!(table.left(1), "  who      bytes\n  zstd -1  1,234\n  é\n");
    }
}
