//! An adapter against its configuration and its base: what becomes of each tensor.
//!
//! Where the base's head is its embedding, each end gets what was trained for it, as in PEFT's
//! forward pass, and the head becomes a tensor of its own where that makes them differ. PEFT's
//! `merge_and_unload` adds a LoRA of one end to the shared tensor, and says that this "can lead to
//! complications" (`tuners/tuners_utils.py`, `_check_merge_allowed`, 0.21); after untying the base,
//! as it advises, its result is the one computed here.

use super::config::{LoraConfig, Targets, is_called, is_within};
use super::names::{AdapterPart, TensorRole, parse};
use crate::base::error::{Error, Result};
use crate::formats::checkpoint::weights::{WeightsEntry, WeightsFile};
use crate::formats::source::{TensorInfo, TensorSource};
use std::collections::{BTreeMap, HashMap};

const EMBEDDING: &str = "model.embed_tokens";
const HEAD: &str = "lm_head";

/// What an adapter has for one tensor of the base: indices into its file.
#[derive(Clone, Debug, Default)]
struct ModuleTensors {
    a: Option<usize>,
    b: Option<usize>,
    embedding: bool,
    magnitude: Option<usize>,
    tokens: Option<usize>,
    bias_of_b: Option<usize>,
    /// With whether it was asked for, by `modules_to_save`.
    whole: Option<(usize, bool)>,
}

impl ModuleTensors {
    fn any(&self) -> Option<usize> {
        let whole = self.whole.map(|(index, _)| index);
        [self.a, self.b, self.magnitude, self.tokens, self.bias_of_b, whole]
            .into_iter()
            .flatten()
            .next()
    }

    /// Whether this is more than new rows, or a new value of the tensor that both ends share.
    fn is_own(&self) -> bool {
        self.a.is_some() || self.b.is_some() || self.whole.is_some_and(|(_, asked)| asked)
    }
}

/// What becomes of one tensor. Indices are into the adapter's file, but for `base`.
#[derive(Debug, Default)]
pub(super) struct TensorChange {
    /// The tensor of the base that is changed.
    pub base: usize,
    pub whole: Option<usize>,
    pub delta: Option<Delta>,
    pub magnitude: Option<usize>,
    /// New rows, and which they are.
    pub tokens: Option<(usize, Vec<usize>)>,
    /// Added, times a factor.
    pub bias: Option<(usize, f32)>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Delta {
    pub a: usize,
    pub b: usize,
    pub rank: usize,
    pub scale: f32,
    /// A is `[rank, rows]` and B `[columns, rank]`, not `[rank, columns]` and `[rows, rank]`.
    pub transposed: bool,
}

/// The tensors of the result, the base's first and in its order.
pub(super) struct AdapterPlan {
    pub infos: Vec<TensorInfo>,
    /// By index in `infos`; all others are the base's as they are.
    pub changes: HashMap<usize, TensorChange>,
    /// The head is a tensor of its own where the base's was the embedding.
    pub untied: bool,
    /// Rows of the embedding, where they are not the base's.
    pub rows: Option<usize>,
}

type TensorKey = (String, String);

pub(super) struct AdapterPlanner<'a> {
    pub base: &'a dyn TensorSource,
    pub file: &'a WeightsFile,
    pub config: &'a LoraConfig,
    entries: Vec<WeightsEntry<'a>>,
}

impl<'a> AdapterPlanner<'a> {
    pub(super) fn new(
        base: &'a dyn TensorSource,
        file: &'a WeightsFile,
        config: &'a LoraConfig,
    ) -> AdapterPlanner<'a> {
        AdapterPlanner { base, file, config, entries: file.entries() }
    }

    /// Plans the result.
    ///
    /// # Errors
    /// If tensors and configuration disagree, or the adapter does not fit the base; both sides are
    /// named.
    pub(super) fn plan(&self) -> Result<AdapterPlan> {
        let mut found = self.collect()?;
        self.complete(&found)?;
        let table = self.base.table();
        let mut plan = AdapterPlan {
            infos: table.infos().to_vec(),
            changes: HashMap::new(),
            untied: false,
            rows: None,
        };
        if table.find(&weight(HEAD)).is_none()
            && let Some(embedding) = table.find(&weight(EMBEDDING))
        {
            self.tied_ends(&mut found, embedding, &mut plan)?;
        }
        for ((module, kind), found) in &found {
            let name = format!("{module}.{kind}");
            let Some(index) = table.find(&name) else {
                let any = found.any().expect("made for a tensor");
                let detail = format!("changes '{name}', which {} lacks", self.base.origin());
                return self.fail(any, detail);
            };
            let (info, change) = self.change((module, &name), found, index)?;
            plan.infos[index] = info;
            plan.changes.insert(index, change);
        }
        self.check_vocabulary(&mut plan)?;
        Ok(plan)
    }

    fn fail<T>(&self, tensor: usize, detail: String) -> Result<T> {
        let origin = self.file.path().display().to_string();
        Err(Error::tensor(origin, self.entries[tensor].name, detail))
    }

    /// The adapter's tensors by the tensor of the base that they change.
    fn collect(&self) -> Result<BTreeMap<TensorKey, ModuleTensors>> {
        let mut found: BTreeMap<TensorKey, ModuleTensors> = BTreeMap::new();
        for (index, entry) in self.entries.iter().enumerate() {
            if entry.info().is_none_or(|info| !info.dtype.is_float()) {
                let detail = format!("type {} cannot be read; use F32, F16 or BF16", entry.dtype);
                return self.fail(index, detail);
            }
            let meaning = match parse(entry.name) {
                Ok(Some(meaning)) => meaning,
                Ok(None) => continue,
                Err(()) => {
                    let detail = "is no part of a LoRA adapter as PEFT names them \
                                  (base_model.model.MODULE.lora_A.weight)";
                    return self.fail(index, detail.to_string());
                }
            };
            self.check_expected(index, &meaning)?;
            let TensorRole { module, kind, part } = meaning;
            let slot = found.entry((module.to_string(), kind.to_string())).or_default();
            let twice = match part {
                AdapterPart::A { embedding } => {
                    slot.embedding = embedding;
                    slot.a.replace(index)
                }
                AdapterPart::B { embedding } => {
                    slot.embedding = embedding;
                    slot.b.replace(index)
                }
                AdapterPart::BiasOfB => slot.bias_of_b.replace(index),
                AdapterPart::Magnitude => slot.magnitude.replace(index),
                AdapterPart::Tokens => slot.tokens.replace(index),
                AdapterPart::Whole { nested } => {
                    let asked = nested
                        || self.config.is_saved(module)
                        || slot.whole.is_some_and(|(_, asked)| asked);
                    let before = slot.whole.replace((index, asked)).map(|(index, _)| index);
                    // PEFT saves an enlarged end that was trained whole under both of its names.
                    before.filter(|&before| !self.are_equal(before, index))
                }
            };
            if twice.is_some() {
                return self.fail(index, format!("module '{module}' has this part twice"));
            }
        }
        if found.is_empty() {
            let path = self.file.path();
            return Err(Error::format(path, "an adapter without tensors"));
        }
        Ok(found)
    }

    /// Every part must be one that the configuration names.
    fn check_expected(&self, index: usize, meaning: &TensorRole<'_>) -> Result<()> {
        let TensorRole { module, kind, part } = *meaning;
        let config = self.config;
        let is_end = ["embed_tokens", "lm_head"].iter().any(|end| is_called(module, end));
        let (expected, key) = match part {
            // PEFT saves the ends of a model unasked where it thinks that they were changed.
            AdapterPart::Whole { nested } => {
                let bias = kind == "bias" && config.biases;
                (nested || is_end || bias || config.is_saved(module), "modules_to_save")
            }
            // The head of a tied base has the tokens of the embedding.
            AdapterPart::Tokens => {
                let tied = is_end && !config.tokens.is_empty();
                (tied || config.tokens_of(module).is_some(), "trainable_token_indices")
            }
            AdapterPart::Magnitude if !config.dora => (false, "use_dora"),
            AdapterPart::BiasOfB if !config.bias_of_b => (false, "lora_bias"),
            AdapterPart::A { .. }
            | AdapterPart::B { .. }
            | AdapterPart::BiasOfB
            | AdapterPart::Magnitude => {
                let tied = config.stays_tied && is_end;
                (tied || config.is_target(module), "target_modules")
            }
        };
        if expected {
            return Ok(());
        }
        let detail = match key {
            "use_dora" | "lora_bias" => {
                format!("belongs to '{key}', which {} does not set", config.origin)
            }
            key => format!("module '{module}' is not among '{key}' of {}", config.origin),
        };
        self.fail(index, detail)
    }

    /// Every module that the configuration names must be there, unless it says that some are not.
    fn complete(&self, found: &BTreeMap<TensorKey, ModuleTensors>) -> Result<()> {
        let path = self.file.path().display();
        for name in &self.config.saved {
            if !found.iter().any(|((module, _), f)| f.whole.is_some() && is_within(module, name)) {
                let detail = format!("'modules_to_save' names '{name}', which {path} lacks");
                return Err(Error::model(&self.config.origin, detail));
            }
        }
        let Targets::Names(names) = &self.config.targets else { return Ok(()) };
        if self.config.limited {
            return Ok(());
        }
        let modules = self.base.table().infos().iter().filter(|info| info.shape.len() == 2);
        let modules = modules.filter_map(|info| info.name.strip_suffix(".weight"));
        for module in modules.filter(|module| names.iter().any(|name| is_called(module, name))) {
            let key = (module.to_string(), "weight".to_string());
            if !found.get(&key).is_some_and(|f| f.a.is_some() && f.b.is_some()) {
                let detail = format!(
                    "'target_modules' includes '{module}' of {}, for which {path} has no complete pair of \
                     lora_A and lora_B",
                    self.base.origin()
                );
                return Err(Error::model(&self.config.origin, detail));
            }
        }
        Ok(())
    }

    /// Plans embedding and head of a base that has one tensor for both, and takes them out of
    /// `found`.
    fn tied_ends(
        &self,
        found: &mut BTreeMap<TensorKey, ModuleTensors>,
        shared: usize,
        plan: &mut AdapterPlan,
    ) -> Result<()> {
        let mut take = |module: &str| {
            found.remove(&(module.to_string(), "weight".to_string())).unwrap_or_default()
        };
        let (mut embedding, mut head) = (take(EMBEDDING), take(HEAD));
        // A tensor that was saved unasked is the one that both share, by whichever name.
        let unasked =
            |f: &ModuleTensors| f.whole.filter(|(_, asked)| !asked).map(|(index, _)| index);
        let differ = match (unasked(&embedding), unasked(&head)) {
            (Some(a), Some(b)) => !self.are_equal(a, b),
            (a, b) => {
                let both = a.or(b).map(|index| (index, false));
                embedding.whole = embedding.whole.or(both);
                head.whole = head.whole.or(both);
                false
            }
        };
        let rows_alone = head.tokens.is_some()
            && !embedding.tokens.zip(head.tokens).is_some_and(|(a, b)| self.are_equal(a, b));
        let own = embedding.is_own() || head.is_own() || rows_alone || differ;
        plan.untied = own && !self.config.stays_tied;
        if plan.untied {
            head.tokens = head.tokens.or(embedding.tokens);
            let name = weight(HEAD);
            let (mut info, change) = match head.any() {
                Some(_) => self.change((HEAD, &name), &head, shared)?,
                None => {
                    let change = TensorChange { base: shared, ..TensorChange::default() };
                    (self.base.table().infos()[shared].clone(), change)
                }
            };
            info.name = name;
            plan.changes.insert(plan.infos.len(), change);
            plan.infos.push(info);
        }
        if embedding.any().is_some() {
            let (info, change) =
                self.change((EMBEDDING, &weight(EMBEDDING)), &embedding, shared)?;
            plan.infos[shared] = info;
            plan.changes.insert(shared, change);
        }
        Ok(())
    }

    /// Whether two of the adapter's tensors are the same.
    fn are_equal(&self, a: usize, b: usize) -> bool {
        let (x, y) = (&self.entries[a], &self.entries[b]);
        (x.dtype, x.shape) == (y.dtype, y.shape)
            && self.file.tensor_bytes(a) == self.file.tensor_bytes(b)
    }

    /// What becomes of the base's tensor `index`, with `found` for `name` of `module`.
    fn change(
        &self,
        (module, name): (&str, &str),
        found: &ModuleTensors,
        index: usize,
    ) -> Result<(TensorInfo, TensorChange)> {
        let any = found.any().expect("made for a tensor");
        let mut info = self.base.table().infos()[index].clone();
        if !info.dtype.is_float() {
            let detail =
                format!("changes '{name}', which is {} in {}", info.dtype, self.base.origin());
            return self.fail(any, detail);
        }
        if let Some((whole, _)) = found.whole {
            let shape = self.entries[whole].shape;
            let is_end = [EMBEDDING, HEAD].contains(&module);
            let resized =
                is_end && shape.len() == 2 && shape[1..] == info.shape[1..] && shape[0] > 0;
            if shape != info.shape && !resized {
                let detail = self.misfit(shape, "replaces", &info);
                return self.fail(whole, detail);
            }
            info.shape = shape.to_vec();
        }
        let delta = match (found.a, found.b) {
            (Some(a), Some(b)) => Some(self.delta(module, found.embedding, &info, (a, b))?),
            (None, None) => None,
            (a, _) => {
                let missing = if a.is_some() { "lora_B" } else { "lora_A" };
                let detail = format!("module '{module}' has no {missing} to go with it");
                return self.fail(any, detail);
            }
        };
        let magnitude = self.magnitude(module, found, &info)?;
        let tokens = found.tokens.map(|tokens| self.tokens(module, tokens, &info)).transpose()?;
        let bias = match found.bias_of_b {
            Some(bias) if self.entries[bias].shape != info.shape => {
                let detail = self.misfit(self.entries[bias].shape, "changes", &info);
                return self.fail(bias, detail);
            }
            bias => bias.map(|bias| (bias, self.config.scale(module))),
        };
        let whole = found.whole.map(|(index, _)| index);
        Ok((info, TensorChange { base: index, whole, delta, magnitude, tokens, bias }))
    }

    fn delta(
        &self,
        module: &str,
        embedding: bool,
        base: &TensorInfo,
        (a, b): (usize, usize),
    ) -> Result<Delta> {
        let &[rows, columns] = &base.shape[..] else {
            return self.fail(a, self.misfit(self.entries[a].shape, "changes", base));
        };
        let rank = self.config.rank(module);
        let (outer, inner) = if embedding { (columns, rows) } else { (rows, columns) };
        for (index, expected) in [(a, [rank, inner]), (b, [outer, rank])] {
            let shape = self.entries[index].shape;
            if shape != expected {
                let detail = format!(
                    "has shape {shape:?}; rank {rank} ({}) and '{}' of shape {:?} in {} need {expected:?}",
                    self.config.origin,
                    base.name,
                    base.shape,
                    self.base.origin()
                );
                return self.fail(index, detail);
            }
        }
        Ok(Delta { a, b, rank, scale: self.config.scale(module), transposed: embedding })
    }

    /// DoRA's vector, which goes with every pair of matrices.
    fn magnitude(
        &self,
        module: &str,
        found: &ModuleTensors,
        base: &TensorInfo,
    ) -> Result<Option<usize>> {
        match (found.magnitude, found.a) {
            (None, Some(a)) if self.config.dora => {
                let detail = format!(
                    "module '{module}' has no lora_magnitude_vector, which 'use_dora' of {} asks for",
                    self.config.origin
                );
                self.fail(a, detail)
            }
            (Some(vector), None) => {
                let detail = format!("module '{module}' has no lora_A and lora_B to go with it");
                self.fail(vector, detail)
            }
            (Some(vector), Some(_)) => {
                let expected = base.shape[usize::from(found.embedding)];
                let elements: usize = self.entries[vector].shape.iter().product();
                if elements == expected {
                    return Ok(Some(vector));
                }
                let detail = self.misfit(self.entries[vector].shape, "changes", base);
                self.fail(vector, detail)
            }
            (None, _) => Ok(None),
        }
    }

    fn tokens(&self, module: &str, index: usize, base: &TensorInfo) -> Result<(usize, Vec<usize>)> {
        let tokens = self.config.tokens_of(module).or_else(|| self.config.tokens_of(EMBEDDING));
        let tokens = tokens.unwrap_or_default().to_vec();
        let (shape, rows) = (self.entries[index].shape, base.shape[0]);
        if base.shape.len() != 2 || shape != [tokens.len(), base.shape[1]] {
            let detail = format!(
                "has shape {shape:?}; {} tokens ({}) and '{}' of shape {:?} in {} do not fit",
                tokens.len(),
                self.config.origin,
                base.name,
                base.shape,
                self.base.origin()
            );
            return self.fail(index, detail);
        }
        if let Some(token) = tokens.iter().find(|&&token| token >= rows) {
            let detail = format!(
                "'trainable_token_indices' of {} names token {token}, and '{}' has {rows} rows",
                self.config.origin, base.name
            );
            return self.fail(index, detail);
        }
        Ok((index, tokens))
    }

    /// Embedding and head must have rows for the same tokens.
    fn check_vocabulary(&self, plan: &mut AdapterPlan) -> Result<()> {
        let rows = |name: &str| {
            let info = plan.infos.iter().find(|info| info.name == weight(name))?;
            info.shape.first().copied()
        };
        let (embedding, head) = (rows(EMBEDDING), rows(HEAD));
        if let (Some(embedding), Some(head)) = (embedding, head)
            && embedding != head
        {
            let detail = format!(
                "makes the embedding of {} {embedding} tokens long and its head {head}; the adapter must have \
                 both",
                self.base.origin()
            );
            return Err(Error::format(self.file.path(), detail));
        }
        let before = self.base.table().get(&weight(EMBEDDING)).map(|info| info.shape[0]);
        plan.rows = embedding.filter(|_| embedding != before);
        Ok(())
    }

    fn misfit(&self, shape: &[usize], verb: &str, base: &TensorInfo) -> String {
        let (name, origin) = (&base.name, self.base.origin());
        format!("has shape {shape:?} and {verb} '{name}' of shape {:?} in {origin}", base.shape)
    }
}

fn weight(module: &str) -> String {
    format!("{module}.weight")
}
