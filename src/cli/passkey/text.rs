//! The texts of the passkey task, as tokens. `models/train/passkey_data.py` makes the same kind.
//!
//! What to expect, filler, the number, filler, the question. A space begins a new word for every tokenizer that we know, so
//! sentences are encoded one by one: the ids are those of the whole text.

use sinkstream::tokenizer::{Special, Tokenizer};
use sinkstream::{Error, Result};

const PREAMBLE: &str = "There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. I \
    will quiz you about the important information there.";
const QUESTION: &str = " What is the pass key? The pass key is ";
/// A sentence a line, the paper's own first.
const FILLER: &str = include_str!("../../../models/train/passkey_filler.txt");
/// Numbers have four digits.
const NUMBERS: u64 = 10_000;

/// A text up to its question, and what the answer is.
pub(super) struct Text {
    pub(super) ids: Vec<u32>,
    pub(super) answer: Vec<u32>,
}

/// What all texts are made of.
pub(super) struct Texts<'a> {
    tokenizer: &'a Tokenizer,
    seed: u32,
    preamble: Vec<u32>,
    filler: Vec<Vec<u32>>,
}

impl<'a> Texts<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, seed: u32) -> Result<Self> {
        let lines = FILLER.lines().filter(|line| !line.is_empty());
        let filler = lines.map(|line| tokenizer.encode(&format!(" {line}"), Special::Plain));
        Ok(Self {
            tokenizer,
            seed,
            preamble: tokenizer.encode_start(PREAMBLE, Special::Plain)?,
            filler: filler.collect::<Result<_>>()?,
        })
    }

    /// A text of at most `length` tokens with its answer: sentences are drawn as long as the next one fits. The number stands
    /// at the first place behind `depth` of the filler. The same seed and trial give the same number and the same filler.
    pub(super) fn text(&self, length: u32, depth: f64, trial: u32) -> Result<Text> {
        let mut random = Random(u64::from(self.seed) << 32 | u64::from(trial));
        let encode = |text: &str| self.tokenizer.encode(text, Special::Plain);
        let number = random.below(NUMBERS);
        let needle = encode(&format!(" The pass key is {number:04}. Remember it. {number:04} is the pass key."))?;
        // The answer begins with the first token that is another for another number.
        let question = encode(&format!("{QUESTION}{number:04}"))?;
        let other = encode(&format!("{QUESTION}{:04}", (number + NUMBERS / 10) % NUMBERS))?;
        let same = question.iter().zip(&other).take_while(|(a, b)| a == b).count();

        let fixed = self.preamble.len() + needle.len() + question.len();
        let mut left = (length as usize).checked_sub(fixed).ok_or_else(|| {
            Error::Settings(format!("--lengths {length}: the question alone has {fixed} tokens with this tokenizer"))
        })?;
        let room = left;
        let mut filler: Vec<&[u32]> = vec![];
        loop {
            let sentence = &self.filler[random.below(self.filler.len() as u64) as usize];
            if sentence.len() > left {
                break;
            }
            left -= sentence.len();
            filler.push(sentence);
        }
        let wanted = depth * (room - left) as f64;
        let mut ids = self.preamble.clone();
        let mut needle = Some(needle);
        for sentence in filler {
            if (ids.len() - self.preamble.len()) as f64 >= wanted {
                ids.extend(needle.take().unwrap_or_default());
            }
            ids.extend(sentence);
        }
        ids.extend(needle.unwrap_or_default());
        ids.extend(&question[..same]);
        Ok(Text { ids, answer: question[same..].to_vec() })
    }
}

/// `SplitMix64` (Steele et al., 2014): the same texts everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (x ^ (x >> 31)) % end
    }
}
