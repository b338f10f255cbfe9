//! The forward pass: token ids of several texts in, one vector of length 1 per text out.
//!
//! Texts stand one after the other without padding. Everything but attention works on rows, in blocks that stay in the
//! cache from one product to the next.

use pulp::Arch;

use super::WIDTH;
use super::attention::{AttentionScratch, attend};
use super::kernel::{Aligned, Finish, Linear, ROW_BLOCK};
use super::rows::{Norm, mean_unit};

/// One layer of the transformer.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) qkv: Linear,
    pub(super) attention_out: Linear,
    pub(super) attention_norm: Norm,
    pub(super) widen: Linear,
    pub(super) narrow: Linear,
    pub(super) norm: Norm,
}

/// All weights, packed for this processor.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) arch: Arch,
    /// A row per token id.
    pub(super) words: Vec<f32>,
    /// A row per position, the embedding of token type 0 added in.
    pub(super) positions: Vec<f32>,
    pub(super) norm: Norm,
    pub(super) layers: Vec<Layer>,
}

/// Buffers of one thread; they grow to the largest chunk seen.
#[derive(Debug)]
pub(super) struct Scratch {
    state: Aligned,
    qkv: Aligned,
    context: Aligned,
    wide: Aligned,
    packed: Aligned,
    attention: AttentionScratch,
}

impl Scratch {
    pub(super) fn new() -> Self {
        Self {
            state: Aligned::zeros(0),
            qkv: Aligned::zeros(0),
            context: Aligned::zeros(0),
            wide: Aligned::zeros(0),
            packed: Aligned::zeros(0),
            attention: AttentionScratch::new(),
        }
    }
}

impl Network {
    /// Embeds texts given as token ids, each of 1 to `TOKENS_MAX` ids below the vocabulary's size.
    pub(super) fn forward(&self, texts: &[&[u32]], scratch: &mut Scratch) -> Vec<Vec<f32>> {
        let tokens: usize = texts.iter().map(|ids| ids.len()).sum();
        let Scratch {
            state,
            qkv,
            context,
            wide,
            packed,
            attention,
        } = scratch;
        let state = state.at_least(tokens * WIDTH);
        let qkv = qkv.at_least(tokens * 3 * WIDTH);
        let context = context.at_least(tokens * WIDTH);
        self.look_up(texts, state);
        for layer in &self.layers {
            let width = layer.qkv.outputs();
            for (rows, out) in state.chunks(ROW_BLOCK * WIDTH).zip(qkv.chunks_mut(ROW_BLOCK * width)) {
                layer.qkv.apply(self.arch, rows, out, Finish::Bias, packed);
            }
            let mut start = 0;
            for ids in texts {
                let end = start + ids.len();
                let (from, to) = (
                    &qkv[start * width..end * width],
                    &mut context[start * WIDTH..end * WIDTH],
                );
                attend(self.arch, from, to, attention);
                start = end;
            }
            for (state, context) in state
                .chunks_mut(ROW_BLOCK * WIDTH)
                .zip(context.chunks(ROW_BLOCK * WIDTH))
            {
                layer.after_attention(self.arch, state, context, wide, packed);
            }
        }
        let mut vectors = Vec::with_capacity(texts.len());
        let mut rest = &*state;
        for ids in texts {
            let (rows, after) = rest.split_at(ids.len() * WIDTH);
            let mut vector = vec![0.0; WIDTH];
            mean_unit(self.arch, rows, &mut vector);
            vectors.push(vector);
            rest = after;
        }
        vectors
    }

    fn look_up(&self, texts: &[&[u32]], state: &mut [f32]) {
        let mut rows = state.chunks_exact_mut(WIDTH);
        for ids in texts {
            for ((id, position), row) in ids.iter().zip(self.positions.chunks_exact(WIDTH)).zip(&mut rows) {
                let word = &self.words[*id as usize * WIDTH..][..WIDTH];
                for ((row, word), position) in row.iter_mut().zip(word).zip(position) {
                    *row = word + position;
                }
            }
        }
        self.norm.apply(self.arch, state);
    }
}

impl Layer {
    fn after_attention(
        &self,
        arch: Arch,
        state: &mut [f32],
        context: &[f32],
        wide: &mut Aligned,
        packed: &mut Aligned,
    ) {
        let wide = wide.at_least(state.len() / WIDTH * self.widen.outputs());
        self.attention_out.apply(arch, context, state, Finish::Add, packed);
        self.attention_norm.apply(arch, state);
        self.widen.apply(arch, state, wide, Finish::Gelu, packed);
        self.narrow.apply(arch, wide, state, Finish::Add, packed);
        self.norm.apply(arch, state);
    }
}
