//! Section 5.6: long matches.

use super::WORDS;
use super::bytes::Cursor;

/// Words of a residual page that are copied from elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LongMatch {
    /// Where it starts in its page, in words.
    pub start: u64,
    /// How many words.
    pub words: u64,
    /// 0 for this guest, `1 + r` for reference `r`.
    pub space: u64,
    /// Word address of the source, in its space.
    pub source: u64,
}

/// Splits the decoded piece into the matches of each residual page; `pages` are these pages' numbers. Whether sources
/// exist is for the caller to check.
pub(super) fn parse(bytes: &[u8], pages: &[u64]) -> Result<Vec<Vec<LongMatch>>, String> {
    let mut cursor = Cursor::new(bytes);
    let mut lengths = [0; 4];
    for length in &mut lengths {
        *length = cursor.varint("long matches: length of a column")?;
    }
    let mut counts = Cursor::new(cursor.take(lengths[0], "long matches: column 1 (counts)")?);
    let mut gaps = Cursor::new(cursor.take(lengths[1], "long matches: column 2 (gaps)")?);
    let mut sizes = Cursor::new(cursor.take(lengths[2], "long matches: column 3 (lengths)")?);
    let mut sources = Cursor::new(cursor.take(lengths[3], "long matches: column 4 (sources)")?);
    cursor.finish("long matches")?;

    let mut all = Vec::new();
    let mut space = 0;
    let mut displacement = 0;
    for &page in pages {
        let count = counts.varint_to(WORDS, "long matches: number in a page")?;
        let mut matches = Vec::new();
        let mut end = 0;
        for _ in 0..count {
            let start = end + gaps.varint_to(WORDS, "long matches: gap")?;
            let words = 1 + sizes.varint_to(WORDS, "long matches: length")?;
            end = start + words;
            if end > WORDS {
                return Err(format!("long matches: one ends at word {end} of page {page}"));
            }
            let s = sources.varint("long matches: s")?;
            if s != 0 {
                space = s - 1;
                displacement = sources.zigzag("long matches: displacement")?;
            }
            let own = page * WORDS + start;
            let source = i128::from(own) - i128::from(displacement);
            let Ok(source) = u64::try_from(source) else {
                return Err(format!("long matches: one of page {page} has source {source}"));
            };
            if source % WORDS + words > WORDS {
                return Err(format!("long matches: the source of one of page {page} is in two pages"));
            }
            matches.push(LongMatch { start, words, space, source });
        }
        all.push(matches);
    }
    counts.finish("long matches: column 1 (counts)")?;
    gaps.finish("long matches: column 2 (gaps)")?;
    sizes.finish("long matches: column 3 (lengths)")?;
    sources.finish("long matches: column 4 (sources)")?;
    Ok(all)
}

/// How many words of a page its matches cover.
pub(super) fn covered(matches: &[LongMatch]) -> u64 {
    matches.iter().map(|m| m.words).sum()
}

/// For each word of a page with these matches: whether it is a literal.
pub(super) fn literals(matches: &[LongMatch]) -> [bool; WORDS as usize] {
    let mut is_literal = [true; WORDS as usize];
    for m in matches {
        is_literal[m.start as usize..(m.start + m.words) as usize].fill(false);
    }
    is_literal
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: u64, words: u64, space: u64, source: u64) -> LongMatch {
        LongMatch { start, words, space, source }
    }

    #[test]
    fn matches_by_hand() {
        // Pages 3 and 5. Page 3: words 2 and 3 from 100 words back, words 10 to 14 the same. Page 5: words 0 to 511
        // from reference 1, 512 words on.
        let columns: [&[u8]; 5] = [
            &[2, 3, 4, 7],
            &[2, 1],
            &[2, 6, 0],
            &[1, 4, 0xff, 3],
            &[1, 0xc8, 1, 0, 3, 0xff, 7], // space 0 and 100; as before; space 2 and -512
        ];
        let bytes = columns.concat();
        let parsed = parse(&bytes, &[3, 5]).unwrap();
        let back = |start: u64| 3 * 512 + start - 100;
        assert_eq!(parsed[0], [at(2, 2, 0, back(2)), at(10, 5, 0, back(10))]);
        assert_eq!(parsed[1], [at(0, 512, 2, 6 * 512)]);
        assert_eq!((covered(&parsed[0]), covered(&parsed[1])), (7, 512));
        for cut in 0..bytes.len() {
            assert!(parse(&bytes[..cut], &[3, 5]).is_err());
        }
        assert!(parse(&[&bytes[..], &[0]].concat(), &[3, 5]).is_err());
        assert!(parse(&bytes, &[3]).is_err(), "columns not used up");
        assert!(parse(&bytes, &[3, 5, 6]).is_err(), "a page without a count");
    }

    #[test]
    fn bad_matches() {
        // One page with one match: gap, length - 1, s and zigzag displacement.
        let one = |page, gap: u8, size: u8, s: u8, z: u8| parse(&[1, 1, 1, 2, 1, gap, size, s, z], &[page]);
        assert_eq!(one(1, 0, 0, 1, 2).unwrap()[0], [at(0, 1, 0, 511)]);
        assert!(one(1, 0, 1, 1, 2).is_err(), "words 511 and 512 are in two pages");
        assert!(one(0, 0, 0, 1, 2).is_err(), "before page 0");
        assert_eq!(
            one(0, 3, 4, 1, 0).unwrap()[0],
            [at(3, 5, 0, 3)],
            "its own page is for the caller to refuse"
        );
        // Two matches, the second beyond the page: gap 0, 512 words, then one more.
        let bytes = [1, 2, 3, 4, 2, 0, 0, 0xff, 3, 0, 1, 0, 1, 0];
        assert!(parse(&bytes, &[0]).unwrap_err().contains("513"));
    }
}
