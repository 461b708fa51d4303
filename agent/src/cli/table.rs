//! Plain tables for the terminal: columns as wide as their widest cell, nothing else.

use std::fmt::Write as _;
use std::io::{self, Write};

/// Prints a line for each of `items` under a heading, without trailing blanks. Each row is made twice, once
/// for the widths: rows of a million items are not held.
pub(super) fn print_rows<T>(
    out: &mut impl Write,
    heading: &[&str],
    items: &[T],
    row: impl Fn(&T) -> Vec<String>,
) -> io::Result<()> {
    let heading: Vec<String> = heading.iter().map(|&cell| cell.to_owned()).collect();
    let mut widths = vec![0; heading.len()];
    let mut measure = |cells: &[String]| {
        for (width, cell) in widths.iter_mut().zip(cells) {
            *width = cell.chars().count().max(*width);
        }
    };
    measure(&heading);
    for item in items {
        measure(&row(item));
    }
    let mut print = |cells: &[String]| {
        let mut line = String::new();
        for (cell, width) in cells.iter().zip(&widths) {
            let _infallible = write!(line, "{cell:<width$}  ");
        }
        writeln!(out, "{}", line.trim_end())
    };
    print(&heading)?;
    items.iter().try_for_each(|item| print(&row(item)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_have_no_trailing_blanks() {
        let mut out = Vec::new();
        let row = |cells: &[&str; 3]| cells.map(str::to_owned).to_vec();
        print_rows(&mut out, &["A", "LONG", "C"], &[["aaa", "b", ""]], row).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "A    LONG  C\naaa  b\n");
    }
}
