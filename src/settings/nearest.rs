//! "Did you mean": the known word nearest to a mistyped one.

/// The known word that is nearest to `word`, if one is near.
pub fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let best = known.iter().min_by_key(|k| distance(word, k))?;
    (distance(word, best) <= 1 + word.chars().count() / 3).then_some(*best)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_slip_of_the_finger_has_a_nearest_word_and_another_word_has_none() {
        let known = ["mirror", "mode", "no_official"];
        for (word, expected) in [("mirorr", Some("mirror")), ("mod", Some("mode")), ("zebra", None), ("", None)] {
            assert_eq!(nearest(word, &known), expected, "{word}");
        }
        assert_eq!(nearest("mode", &[]), None);
    }

    proptest! {
        #[test]
        fn the_distance_is_one_of_edits(a in "[a-c]{0,6}", b in "[a-c]{0,6}", c in "[a-c]{0,6}") {
            prop_assert_eq!(distance(&a, &b), distance(&b, &a));
            prop_assert_eq!(distance(&a, &b) == 0, a == b);
            prop_assert!(distance(&a, &c) <= distance(&a, &b) + distance(&b, &c));
        }
    }
}
