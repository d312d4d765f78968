//! A tape of random numbers: the same tape gives the same run, and past its end every choice is the first one.

pub struct Choices<'a> {
    tape: std::slice::Iter<'a, u16>,
}

impl<'a> Choices<'a> {
    pub fn new(tape: &'a [u16]) -> Self {
        Self { tape: tape.iter() }
    }

    pub fn is_spent(&self) -> bool {
        self.tape.len() == 0
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::from(self.tape.next().copied().unwrap_or(0)) % bound.max(1)
    }

    pub fn pick<'b, T>(&mut self, from: &'b [T]) -> &'b T {
        &from[self.below(from.len())]
    }

    /// True once in `n` on average, never past the end of the tape.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == n - 1
    }
}
