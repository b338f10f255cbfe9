//! Reads `model.safetensors` into packed weights. Every tensor's name, type and shape is checked before use.

use std::path::Path;

use pulp::Arch;
use safetensors::{Dtype, SafeTensors};

use super::forward::{Layer, Network};
use super::kernel::Linear;
use super::rows::Norm;
use super::{LAYERS, POSITIONS, VOCABULARY, WIDE, WIDTH};
use crate::EmbedError;

/// The network in `bytes`, the content of the file at `path`.
pub(super) fn read(bytes: &[u8], path: &Path, arch: Arch) -> Result<Network, EmbedError> {
    let tensors = SafeTensors::deserialize(bytes).map_err(|source| EmbedError::Weights {
        path: path.to_owned(),
        source: Box::new(source),
    })?;
    let file = File { tensors, path, arch };
    let mut positions = file.floats("embeddings.position_embeddings.weight", &[POSITIONS, WIDTH])?;
    let token_types = file.floats("embeddings.token_type_embeddings.weight", &[2, WIDTH])?;
    for row in positions.chunks_exact_mut(WIDTH) {
        row.iter_mut()
            .zip(&token_types)
            .for_each(|(position, kind)| *position += kind);
    }
    Ok(Network {
        arch,
        words: file.floats("embeddings.word_embeddings.weight", &[VOCABULARY, WIDTH])?,
        positions,
        norm: file.norm("embeddings.LayerNorm")?,
        layers: (0..LAYERS).map(|n| file.layer(n)).collect::<Result<_, _>>()?,
    })
}

struct File<'a> {
    tensors: SafeTensors<'a>,
    path: &'a Path,
    arch: Arch,
}

impl File<'_> {
    fn floats(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, EmbedError> {
        let wrong = || EmbedError::Tensor {
            path: self.path.to_owned(),
            name: name.to_owned(),
            shape: shape.to_vec(),
        };
        let tensor = self.tensors.tensor(name).map_err(|_| wrong())?;
        if tensor.dtype() != Dtype::F32 || tensor.shape() != shape {
            return Err(wrong());
        }
        let (floats, _) = tensor.data().as_chunks::<4>();
        Ok(floats.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    }

    fn norm(&self, name: &str) -> Result<Norm, EmbedError> {
        Ok(Norm {
            weight: self.floats(&format!("{name}.weight"), &[WIDTH])?,
            bias: self.floats(&format!("{name}.bias"), &[WIDTH])?,
        })
    }

    fn linear(&self, names: &[String], inputs: usize, outputs: usize) -> Result<Linear, EmbedError> {
        let mut weights = Vec::with_capacity(names.len() * inputs * outputs);
        let mut bias = Vec::with_capacity(names.len() * outputs);
        for name in names {
            weights.extend(self.floats(&format!("{name}.weight"), &[outputs, inputs])?);
            bias.extend(self.floats(&format!("{name}.bias"), &[outputs])?);
        }
        Ok(Linear::pack(self.arch, inputs, &weights, bias))
    }

    fn layer(&self, n: usize) -> Result<Layer, EmbedError> {
        let at = |part: &str| format!("encoder.layer.{n}.{part}");
        let qkv = ["query", "key", "value"].map(|part| at(&format!("attention.self.{part}")));
        Ok(Layer {
            qkv: self.linear(&qkv, WIDTH, WIDTH)?,
            attention_out: self.linear(&[at("attention.output.dense")], WIDTH, WIDTH)?,
            attention_norm: self.norm(&at("attention.output.LayerNorm"))?,
            widen: self.linear(&[at("intermediate.dense")], WIDTH, WIDE)?,
            narrow: self.linear(&[at("output.dense")], WIDE, WIDTH)?,
            norm: self.norm(&at("output.LayerNorm"))?,
        })
    }
}
