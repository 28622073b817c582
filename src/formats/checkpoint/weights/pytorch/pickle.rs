//! A restricted unpickler for the part of Python's pickle format that `torch.save` writes for
//! weights.
//!
//! A pickle is a program that may call anything Python can import. Here it can only build data from
//! the names in [`GLOBALS`]; anything else is refused with its name and offset. Values are in an
//! arena and refer to each other by index, so shared and circular values need no recursion.
//! Sources: CPython `Lib/pickletools.py` (protocol 2), PyTorch 2.9 `torch/serialization.py` and
//! `torch/_utils.py`. Not here: other protocols.

use byteorder::{BigEndian, ByteOrder, LittleEndian as LE};
use safetensors::Dtype;
use std::collections::HashMap;

/// The largest size of a pickle in bytes. Names and shapes of tensors take less.
pub(super) const MAX_BYTES: usize = 256 << 20;
const MAX_STACK: usize = 1 << 20;
const MAX_VALUES: usize = 1 << 24;
const MAX_MEMO: u32 = 1 << 24;
const MAX_TEXT: usize = 1 << 16;
const MAX_DIMS: usize = 8;

/// Why a pickle was refused.
#[derive(Debug, PartialEq)]
pub(super) struct Refused {
    /// Offset of the opcode in the pickle.
    pub offset: usize,
    /// What is wrong with it.
    pub detail: String,
}

/// The meaning of a name.
#[derive(Clone, Copy, Debug, PartialEq)]
enum PickleGlobal {
    /// Creates an empty dictionary.
    OrderedDict,
    /// Creates a tensor from a storage.
    RebuildTensor,
    /// Returns its first argument, a tensor.
    RebuildParameter,
    Storage(Dtype),
}

/// Every name that a pickle may use.
#[rustfmt::skip]
const GLOBALS: &[(&str, &str, PickleGlobal)] = &[
    ("collections", "OrderedDict", PickleGlobal::OrderedDict),
    ("torch._utils", "_rebuild_tensor_v2", PickleGlobal::RebuildTensor),
    ("torch._utils", "_rebuild_parameter", PickleGlobal::RebuildParameter),
    ("torch", "DoubleStorage", PickleGlobal::Storage(Dtype::F64)),
    ("torch", "FloatStorage", PickleGlobal::Storage(Dtype::F32)),
    ("torch", "HalfStorage", PickleGlobal::Storage(Dtype::F16)),
    ("torch", "BFloat16Storage", PickleGlobal::Storage(Dtype::BF16)),
    ("torch", "LongStorage", PickleGlobal::Storage(Dtype::I64)),
    ("torch", "IntStorage", PickleGlobal::Storage(Dtype::I32)),
    ("torch", "ShortStorage", PickleGlobal::Storage(Dtype::I16)),
    ("torch", "CharStorage", PickleGlobal::Storage(Dtype::I8)),
    ("torch", "ByteStorage", PickleGlobal::Storage(Dtype::U8)),
    ("torch", "BoolStorage", PickleGlobal::Storage(Dtype::BOOL)),
];

/// A sequence of elements in the archive. Tensors are views of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Storage {
    pub dtype: Dtype,
    /// The name of its entry, `data/KEY`.
    pub key: String,
    /// The number of elements.
    pub elements: usize,
}

/// A view of a storage. Offset and strides are in elements and not yet checked against the storage.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TensorView {
    pub storage: Storage,
    pub offset: usize,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
}

/// The index of a value in the arena.
type ValueId = usize;

#[derive(Debug)]
enum PickleValue {
    None,
    Bool,
    Int(i64),
    Float,
    Text(String),
    Tuple(Vec<ValueId>),
    List,
    Dict(Vec<(ValueId, ValueId)>),
    Global(PickleGlobal),
    Storage(Storage),
    Tensor(TensorView),
}

impl PickleValue {
    fn describe(&self) -> &'static str {
        match self {
            PickleValue::None => "None",
            PickleValue::Bool => "a boolean",
            PickleValue::Int(_) => "an integer",
            PickleValue::Float => "a number",
            PickleValue::Text(_) => "a text",
            PickleValue::Tuple(_) => "a tuple",
            PickleValue::List => "a list",
            PickleValue::Dict(_) => "a dictionary",
            PickleValue::Global(_) => "a name",
            PickleValue::Storage(_) => "a storage",
            PickleValue::Tensor(_) => "a tensor",
        }
    }
}

/// Returns the tensors of the pickled dictionary `pickle`, in its order.
///
/// # Errors
/// A pickle that is anything else than a dictionary of tensors.
pub(super) fn tensors(pickle: &[u8]) -> Result<Vec<(String, TensorView)>, Refused> {
    let mut machine = Unpickler {
        pickle,
        position: 0,
        opcode_at: 0,
        values: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
    };
    let top = machine.run()?;
    let PickleValue::Dict(entries) = &machine.values[top] else {
        let what = machine.values[top].describe();
        return machine.refuse(format!("it holds {what}, not a dictionary of tensors"));
    };
    let mut tensors = Vec::with_capacity(entries.len());
    for &(key, value) in entries {
        let (name, view) = match (&machine.values[key], &machine.values[value]) {
            (PickleValue::Text(name), PickleValue::Tensor(view)) => (name.clone(), view.clone()),
            (PickleValue::Text(name), other) => {
                let what = other.describe();
                return machine.refuse(format!(
                    "'{name}' is {what}, not a tensor; is this a training checkpoint? Weights are a \
                     dictionary of tensors by name"
                ));
            }
            (other, _) => {
                return machine
                    .refuse(format!("a tensor's name is {}, not a text", other.describe()));
            }
        };
        tensors.push((name, view));
    }
    Ok(tensors)
}

struct Unpickler<'a> {
    pickle: &'a [u8],
    position: usize,
    /// The offset of the current opcode.
    opcode_at: usize,
    values: Vec<PickleValue>,
    stack: Vec<ValueId>,
    /// The height of the stack at each open mark.
    marks: Vec<usize>,
    memo: HashMap<u32, ValueId>,
}

impl<'a> Unpickler<'a> {
    fn refuse<T>(&self, detail: impl Into<String>) -> Result<T, Refused> {
        Err(Refused { offset: self.opcode_at, detail: detail.into() })
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Refused> {
        let end = self.position.checked_add(len);
        match end.and_then(|end| self.pickle.get(self.position..end)) {
            Some(bytes) => {
                self.position += len;
                Ok(bytes)
            }
            None => self.refuse("the pickle is truncated"),
        }
    }

    fn byte(&mut self) -> Result<u8, Refused> {
        Ok(self.take(1)?[0])
    }

    fn four(&mut self) -> Result<u32, Refused> {
        Ok(LE::read_u32(self.take(4)?))
    }

    fn line(&mut self) -> Result<&'a str, Refused> {
        let rest = &self.pickle[self.position..];
        let end = rest.iter().take(MAX_TEXT).position(|&b| b == b'\n');
        let text = end.and_then(|end| std::str::from_utf8(&rest[..end]).ok());
        match text {
            Some(text) => {
                self.position += text.len() + 1;
                Ok(text)
            }
            None => self.refuse("a name without an end"),
        }
    }

    fn text(&mut self, len: usize) -> Result<(), Refused> {
        if len > MAX_TEXT {
            return self.refuse(format!("a text of {len} bytes is no tensor's name"));
        }
        match std::str::from_utf8(self.take(len)?) {
            Ok(text) => self.push(PickleValue::Text(text.to_string())),
            Err(_) => self.refuse("a text that is not UTF-8"),
        }
    }

    fn push(&mut self, value: PickleValue) -> Result<(), Refused> {
        if self.values.len() >= MAX_VALUES {
            return self.refuse(format!("more than {MAX_VALUES} values"));
        }
        self.values.push(value);
        self.push_id(self.values.len() - 1)
    }

    fn push_id(&mut self, id: ValueId) -> Result<(), Refused> {
        if self.stack.len() >= MAX_STACK {
            return self.refuse(format!("more than {MAX_STACK} values on the stack"));
        }
        self.stack.push(id);
        Ok(())
    }

    /// Pops the topmost value above the last mark.
    fn pop(&mut self) -> Result<ValueId, Refused> {
        if self.stack.len() <= self.marks.last().copied().unwrap_or(0) {
            return self.refuse("takes more values than there are");
        }
        Ok(self.stack.pop().expect("not empty"))
    }

    /// Pops everything above the last mark, and the mark.
    fn pop_mark(&mut self) -> Result<Vec<ValueId>, Refused> {
        match self.marks.pop() {
            Some(height) => Ok(self.stack.split_off(height)),
            None => self.refuse("a list without a beginning"),
        }
    }

    fn top(&self) -> Result<ValueId, Refused> {
        match self.stack.last() {
            Some(&id) if self.stack.len() > self.marks.last().copied().unwrap_or(0) => Ok(id),
            _ => self.refuse("takes more values than there are"),
        }
    }

    /// Runs the program and returns its final value.
    fn run(&mut self) -> Result<ValueId, Refused> {
        loop {
            self.opcode_at = self.position;
            let opcode = self.byte()?;
            if opcode == b'.' {
                return self.pop();
            }
            self.step(opcode)?;
        }
    }

    fn step(&mut self, opcode: u8) -> Result<(), Refused> {
        match opcode {
            0x80 => match self.byte()? {
                2 => Ok(()),
                n => self.refuse(format!(
                    "pickle protocol {n} is not supported, only 2, the default of torch.save; save it again"
                )),
            },
            b'N' => self.push(PickleValue::None),
            0x88 | 0x89 => self.push(PickleValue::Bool),
            b'K' => self.byte().and_then(|n| self.push(PickleValue::Int(n.into()))),
            b'M' => {
                let n = LE::read_u16(self.take(2)?);
                self.push(PickleValue::Int(n.into()))
            }
            b'J' => self.four().and_then(|n| self.push(PickleValue::Int((n as i32).into()))),
            0x8a => self.long(),
            b'G' => {
                let _ = BigEndian::read_f64(self.take(8)?);
                self.push(PickleValue::Float)
            }
            b'X' | b'T' => self.four().and_then(|len| self.text(len as usize)),
            b'U' => self.byte().and_then(|len| self.text(len.into())),
            b'(' => {
                if self.marks.len() >= MAX_STACK {
                    return self.refuse("lists are nested too deeply");
                }
                self.marks.push(self.stack.len());
                Ok(())
            }
            b')' => self.push(PickleValue::Tuple(Vec::new())),
            0x85..=0x87 => self.short_tuple(usize::from(opcode - 0x84)),
            b't' => self.pop_mark().and_then(|items| self.push(PickleValue::Tuple(items))),
            b']' => self.push(PickleValue::List),
            b'}' => self.push(PickleValue::Dict(Vec::new())),
            b'a' | b'e' => self.append(opcode == b'e'),
            b's' | b'u' => self.set_items(opcode == b'u'),
            b'q' => self.byte().and_then(|n| self.put(n.into())),
            b'r' => self.four().and_then(|n| self.put(n)),
            b'h' => self.byte().and_then(|n| self.get(n.into())),
            b'j' => self.four().and_then(|n| self.get(n)),
            b'c' => self.global(),
            b'Q' => self.persistent(),
            b'R' => self.reduce(),
            b'b' => self.build(),
            _ => self.refuse(format!(
                "opcode 0x{opcode:02x} is not among those that torch.save writes for weights"
            )),
        }
    }

    /// Pushes an integer of up to 255 bytes. Those of more than 64 bits are refused.
    fn long(&mut self) -> Result<(), Refused> {
        let len = self.byte()? as usize;
        let bytes = self.take(len)?;
        if len > 8 {
            return self.refuse(format!("an integer of {len} bytes"));
        }
        let n = if len == 0 { 0 } else { LE::read_int(bytes, len) };
        self.push(PickleValue::Int(n))
    }

    fn short_tuple(&mut self, len: usize) -> Result<(), Refused> {
        let mut items = (0..len).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
        items.reverse();
        self.push(PickleValue::Tuple(items))
    }

    /// Appends to a list. The items are dropped, because lists have no meaning in a dictionary of
    /// tensors.
    fn append(&mut self, many: bool) -> Result<(), Refused> {
        if many {
            self.pop_mark()?;
        } else {
            self.pop()?;
        }
        match self.values[self.top()?] {
            PickleValue::List => Ok(()),
            ref other => self.refuse(format!("appends to {}", other.describe())),
        }
    }

    fn set_items(&mut self, many: bool) -> Result<(), Refused> {
        let items = if many {
            self.pop_mark()?
        } else {
            let value = self.pop()?;
            vec![self.pop()?, value]
        };
        let (pairs, rest) = items.as_chunks::<2>();
        let target = self.top()?;
        match &mut self.values[target] {
            PickleValue::Dict(entries) if rest.is_empty() => {
                entries.extend(pairs.iter().map(|&[key, value]| (key, value)));
                Ok(())
            }
            PickleValue::Dict(_) => self.refuse("a key without a value"),
            other => {
                let detail = format!("sets items of {}", other.describe());
                self.refuse(detail)
            }
        }
    }

    fn put(&mut self, slot: u32) -> Result<(), Refused> {
        if slot >= MAX_MEMO {
            return self.refuse(format!("stores a value under the number {slot}"));
        }
        let top = self.top()?;
        self.memo.insert(slot, top);
        Ok(())
    }

    fn get(&mut self, slot: u32) -> Result<(), Refused> {
        match self.memo.get(&slot) {
            Some(&id) => self.push_id(id),
            None => self.refuse(format!("uses value {slot}, which was not stored")),
        }
    }

    fn global(&mut self) -> Result<(), Refused> {
        let (module, name) = (self.line()?, self.line()?);
        let known = GLOBALS.iter().find(|(m, n, _)| (*m, *n) == (module, name));
        match known {
            Some(&(_, _, global)) => self.push(PickleValue::Global(global)),
            None => {
                let shown: String = format!("{module}.{name}").chars().take(100).collect();
                self.refuse(format!(
                    "uses '{}', which weights do not need and which could run code when loaded with \
                     PyTorch; do not trust this file, and download the model as safetensors",
                    shown.escape_debug()
                ))
            }
        }
    }

    fn tuple(&self, id: ValueId) -> Option<&[ValueId]> {
        match &self.values[id] {
            PickleValue::Tuple(items) => Some(items),
            _ => None,
        }
    }

    fn count(&self, id: ValueId) -> Option<usize> {
        match self.values[id] {
            PickleValue::Int(n) => usize::try_from(n).ok(),
            _ => None,
        }
    }

    fn counts(&self, id: ValueId) -> Option<Vec<usize>> {
        let items = self.tuple(id).filter(|items| items.len() <= MAX_DIMS)?;
        items.iter().map(|&id| self.count(id)).collect()
    }

    /// Pushes the storage of a persistent id, `('storage', type, key, device, elements)`.
    fn persistent(&mut self) -> Result<(), Refused> {
        let id = self.pop()?;
        let storage = self.tuple(id).and_then(|items| {
            let &[tag, kind, key, _device, elements] = items else { return None };
            match (&self.values[tag], &self.values[kind], &self.values[key]) {
                (
                    PickleValue::Text(tag),
                    PickleValue::Global(PickleGlobal::Storage(dtype)),
                    PickleValue::Text(key),
                ) if tag == "storage" => {
                    let elements = self.count(elements)?;
                    Some(Storage { dtype: *dtype, key: key.clone(), elements })
                }
                _ => None,
            }
        });
        match storage {
            Some(storage) => self.push(PickleValue::Storage(storage)),
            None => self.refuse("refers to something outside the pickle that is not a storage"),
        }
    }

    /// Calls a name, which has the meaning of its [`PickleGlobal`].
    fn reduce(&mut self) -> Result<(), Refused> {
        let (arguments, callee) = (self.pop()?, self.pop()?);
        let PickleValue::Global(global) = self.values[callee] else {
            return self.refuse(format!("calls {}", self.values[callee].describe()));
        };
        let Some(arguments) = self.tuple(arguments).map(<[ValueId]>::to_vec) else {
            return self.refuse("calls with arguments that are not a tuple");
        };
        match global {
            PickleGlobal::OrderedDict if arguments.is_empty() => {
                self.push(PickleValue::Dict(Vec::new()))
            }
            PickleGlobal::OrderedDict => self.refuse("makes a dictionary from arguments"),
            PickleGlobal::RebuildTensor => self.rebuild_tensor(&arguments),
            PickleGlobal::RebuildParameter => match arguments.first() {
                Some(&id) if matches!(self.values[id], PickleValue::Tensor(_)) => self.push_id(id),
                _ => self.refuse("a parameter that is not a tensor"),
            },
            PickleGlobal::Storage(_) => self.refuse("makes a storage without an archive entry"),
        }
    }

    /// `_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks[, metadata])`.
    fn rebuild_tensor(&mut self, arguments: &[ValueId]) -> Result<(), Refused> {
        let &[storage, offset, shape, strides, ..] = arguments else {
            return self.refuse("a tensor with too few arguments");
        };
        let PickleValue::Storage(storage) = &self.values[storage] else {
            return self.refuse("a tensor without a storage");
        };
        let (storage, shape, strides) = (storage.clone(), self.counts(shape), self.counts(strides));
        match (self.count(offset), shape, strides) {
            (Some(offset), Some(shape), Some(strides)) if shape.len() == strides.len() => {
                self.push(PickleValue::Tensor(TensorView { storage, offset, shape, strides }))
            }
            _ => self.refuse("a tensor with an unusable offset, shape or strides"),
        }
    }

    /// Sets attributes. A dictionary of tensors has `_metadata` with versions of its modules, which
    /// is dropped. For any other object, this could run code.
    fn build(&mut self) -> Result<(), Refused> {
        let state = self.pop()?;
        let target = self.top()?;
        match (&self.values[target], &self.values[state]) {
            (PickleValue::Dict(_), PickleValue::Dict(_)) => Ok(()),
            (target, _) => self.refuse(format!("sets the state of {}", target.describe())),
        }
    }
}
