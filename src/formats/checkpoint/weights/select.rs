//! Which files of a folder are the model's weights, and which of them holds which tensor.
//!
//! Goes by what is there: an index, a whole file and numbered shards may disagree, and then the
//! files decide, with a warning that names both sides. Precedence is that of transformers 5
//! (`modeling_utils.py`, `_get_resolved_checkpoint_files`): safetensors before PyTorch's files, a
//! whole file before an index. Not here: types and data of tensors, see [`super::folder`].

use super::file::WeightsFile;
use super::index::ShardIndex;
use super::naming::{Naming, PYTORCH, SAFETENSORS};
use crate::base::error::{Error, Result};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

/// The files of a model's weights.
pub(crate) struct WeightFiles {
    pub files: Vec<WeightsFile>,
    /// Of tensors that several files hold, the number of the file that is taken.
    homes: HashMap<String, usize>,
    /// What was decided, a sentence each.
    pub warnings: Vec<String>,
}

/// Why there are no weights of one kind.
enum Unusable {
    /// Not a single file.
    Absent,
    /// Some are there and others are not; weights of another kind may serve.
    Incomplete(Error),
    Broken(Error),
}

impl From<Error> for Unusable {
    fn from(error: Error) -> Unusable {
        Unusable::Broken(error)
    }
}

impl WeightFiles {
    /// Finds and opens the weights in `dir`.
    ///
    /// # Errors
    /// No weights, missing shards, or files that do not say which of them make the model.
    pub(crate) fn open(dir: &Path) -> Result<WeightFiles> {
        let safetensors = match Finder::new(dir, &SAFETENSORS)?.find() {
            Ok(mut found) => {
                found.compare_with_pytorch(dir)?;
                return Ok(found);
            }
            Err(Unusable::Broken(error)) => return Err(error),
            Err(Unusable::Incomplete(error)) => Some(error),
            Err(Unusable::Absent) => None,
        };
        match (Finder::new(dir, &PYTORCH)?.find(), safetensors) {
            (Ok(mut found), Some(error)) => {
                let used = found.files[0].path().display();
                found.warnings.push(format!(
                    "the safetensors files cannot be used ({error}); {used} is used instead"
                ));
                Ok(found)
            }
            (Ok(found), None) => Ok(found),
            (Err(_), Some(error)) => Err(error),
            (Err(Unusable::Broken(error) | Unusable::Incomplete(error)), None) => Err(error),
            (Err(Unusable::Absent), None) => {
                let detail = "no weights in this folder: neither safetensors nor pytorch_model.bin";
                Err(Error::format(dir, detail))
            }
        }
    }

    /// Whether tensor `name` is to be taken from file `file`, which holds one of that name.
    pub(crate) fn is_home(&self, name: &str, file: usize) -> bool {
        self.homes.get(name).is_none_or(|home| *home == file)
    }

    /// Warns where the folder's PyTorch file holds other tensors than the safetensors that are
    /// used.
    fn compare_with_pytorch(&mut self, dir: &Path) -> Result<()> {
        let path = dir.join(PYTORCH.single);
        if !path.is_file() {
            return Ok(());
        }
        let Ok(other) = WeightsFile::open(&path) else { return Ok(()) };
        let used = names_of(&self.files);
        let mut theirs = other.entries().into_iter().map(|entry| entry.name);
        if let Some(name) = theirs.find(|name| !used.contains(*name)) {
            self.warnings.push(format!(
                "{} holds '{name}', which the safetensors files lack; the safetensors files are used",
                path.display()
            ));
        }
        Ok(())
    }
}

fn names_of(files: &[WeightsFile]) -> BTreeSet<String> {
    let entries = files.iter().flat_map(WeightsFile::entries);
    entries.map(|entry| entry.name.to_string()).collect()
}

/// Files that are numbered alike: a stem and a count.
type Series = (String, u32);

/// Looks for the weights of one kind.
struct Finder<'d> {
    dir: &'d Path,
    naming: &'static Naming,
    /// Names of files of this kind, the whole file's among them.
    present: BTreeSet<String>,
    warnings: Vec<String>,
}

impl<'d> Finder<'d> {
    fn new(dir: &'d Path, naming: &'static Naming) -> Result<Finder<'d>> {
        let mut present = BTreeSet::new();
        for entry in std::fs::read_dir(dir).map_err(Error::io(dir, "list"))? {
            let name = entry.map_err(Error::io(dir, "list"))?.file_name();
            let name = name.to_string_lossy();
            if naming.matches(&name) && dir.join(&*name).is_file() {
                present.insert(name.into_owned());
            }
        }
        Ok(Finder { dir, naming, present, warnings: Vec::new() })
    }

    fn find(mut self) -> Result<WeightFiles, Unusable> {
        let path = self.dir.join(self.naming.index);
        let index = if path.is_file() { self.read_index(&path)? } else { None };
        let names = match (self.present.contains(self.naming.single), &index) {
            (true, index) => self.with_whole_file(index.as_ref())?,
            (false, Some(index)) => self.by_index(index)?,
            (false, None) => self.by_names()?,
        };
        let files = self.open(&names)?;
        match index.filter(|index| index.files() == names) {
            Some(index) => self.check_against(files, &index),
            None => self.resolve(files, HashMap::new()),
        }
    }

    /// The index; `None`, with a warning, if it cannot be used and the whole file is there.
    fn read_index(&mut self, path: &Path) -> Result<Option<ShardIndex>> {
        match ShardIndex::read(path) {
            Ok(index) => Ok(Some(index)),
            Err(error) if self.present.contains(self.naming.single) => {
                self.warnings.push(format!("{error}; {} is used alone", self.naming.single));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn open(&self, names: &[String]) -> Result<Vec<WeightsFile>> {
        names.iter().map(|name| WeightsFile::open(self.dir.join(name))).collect()
    }

    /// The whole file, or the shards beside it if they hold all of its tensors and more.
    fn with_whole_file(&mut self, index: Option<&ShardIndex>) -> Result<Vec<String>> {
        let single = self.naming.single;
        let whole = vec![single.to_string()];
        let indexed = index.map(|index| index.files()).filter(|files| *files != whole);
        let (others, which) = match indexed {
            Some(files) => (files, self.naming.index.to_string()),
            None => match self.complete_series().as_slice() {
                [(series, names), ..] => {
                    let (stem, count) = series;
                    (names.clone(), format!("the {count} shards of '{stem}'"))
                }
                [] => return Ok(whole),
            },
        };
        let missing = others.iter().filter(|name| !self.present.contains(*name)).count();
        if missing > 0 {
            self.warnings.push(format!(
                "{which} lists {} files, of which {missing} are missing; {single} is used alone",
                others.len()
            ));
            return Ok(whole);
        }
        let others: Vec<String> = others.into_iter().filter(|name| *name != single).collect();
        let ours = names_of(&self.open(&whole)?);
        let theirs = names_of(&self.open(&others)?);
        if ours.is_superset(&theirs) {
            self.warnings.push(format!(
                "both {single} and the shards of {which} are in the folder; {single} is used, as \
                 transformers does"
            ));
            return Ok(whole);
        }
        if theirs.is_superset(&ours) {
            self.warnings.push(format!(
                "both {single} and the shards of {which} are in the folder, and {single} lacks {} of \
                 their tensors; the shards are used",
                theirs.len() - ours.len()
            ));
            return Ok(others);
        }
        let only = |a: &BTreeSet<String>, b: &BTreeSet<String>| {
            a.difference(b).next().cloned().unwrap_or_default()
        };
        let detail = format!(
            "{single} holds '{}', which the shards of {which} lack, and they hold '{}', which it lacks: \
             which of them is the model cannot be told; move one of them elsewhere",
            only(&ours, &theirs),
            only(&theirs, &ours)
        );
        Err(Error::format(self.dir, detail))
    }

    /// The files that the index names, or others in the folder that hold what it lists.
    fn by_index(&mut self, index: &ShardIndex) -> Result<Vec<String>, Unusable> {
        let names = index.files();
        let missing: Vec<&String> =
            names.iter().filter(|name| !self.present.contains(*name)).collect();
        let Some(first) = missing.first() else {
            let others: Vec<&String> = self.shards().filter(|name| !names.contains(name)).collect();
            if let Some(other) = others.first() {
                self.warnings.push(format!(
                    "{} shards that {} does not name are in the folder, '{other}' for one; they are left \
                     out",
                    others.len(),
                    self.naming.index
                ));
            }
            return Ok(names);
        };
        for (_, shards) in self.complete_series() {
            let held = names_of(&self.open(&shards)?);
            if index.tensors().all(|tensor| held.contains(tensor)) {
                self.warnings.push(format!(
                    "{} names '{first}', which is missing; '{}' and the other shards of its series hold all \
                     that it lists and are used",
                    self.naming.index, shards[0]
                ));
                return Ok(shards);
            }
        }
        Err(self.incomplete(names.len(), &missing))
    }

    fn incomplete(&self, all: usize, missing: &[&String]) -> Unusable {
        let Some(first) = missing.first() else { return Unusable::Absent };
        let detail = match missing.len() {
            1 => format!("shard '{first}' is missing"),
            n => format!("{n} of {all} shards are missing, '{first}' first"),
        };
        let remedy = "get the missing files with: hf download OWNER/NAME --local-dir";
        let detail = format!("{detail}; {remedy} {}", self.dir.display());
        Unusable::Incomplete(Error::format(self.dir, detail))
    }

    /// Names of files that are numbered.
    fn shards(&self) -> impl Iterator<Item = &String> {
        self.present.iter().filter(|name| self.naming.shard_number(name).is_some())
    }

    /// The numbered files, by series.
    fn series(&self) -> BTreeMap<Series, BTreeMap<u32, String>> {
        let mut all: BTreeMap<Series, BTreeMap<u32, String>> = BTreeMap::new();
        for name in &self.present {
            if let Some((stem, number, count)) = self.naming.shard_number(name) {
                all.entry((stem, count)).or_default().insert(number, name.clone());
            }
        }
        all
    }

    /// The series of which no file is missing: those that are called as transformers calls them
    /// first, Mistral's own `consolidated` last.
    fn complete_series(&self) -> Vec<(Series, Vec<String>)> {
        let usual = self.naming.single.split('.').next().unwrap_or_default();
        let mut complete: Vec<(Series, Vec<String>)> = (self.series().into_iter())
            .filter(|((_, count), files)| {
                let from = first_number(files);
                (from..from + count).eq(files.keys().copied())
            })
            .map(|(series, files)| (series, files.into_values().collect()))
            .collect();
        complete.sort_by_key(|((stem, _), _)| (stem != usual, stem == CONSOLIDATED));
        complete
    }

    /// The files that belong together by their names, where there is no index.
    fn by_names(&mut self) -> Result<Vec<String>, Unusable> {
        let complete = self.complete_series();
        match complete.as_slice() {
            [] => {}
            [((stem, _), names), rest @ ..] => {
                if let Some(((_, _), others)) = rest.iter().find(|((other, _), _)| other == stem) {
                    let detail = format!(
                        "two series of shards are in the folder, '{}' and '{}', and no {} to say which of \
                         them is the model; move one of them elsewhere",
                        names[0], others[0], self.naming.index
                    );
                    return Err(Unusable::Broken(Error::format(self.dir, detail)));
                }
                let left: Vec<&String> =
                    self.shards().filter(|name| !names.contains(name)).collect();
                if let Some(first) = left.first().filter(|name| !name.starts_with(CONSOLIDATED)) {
                    self.warnings.push(format!(
                        "'{first}' belongs to another series of shards than '{}', which is complete; it \
                         is left out",
                        names[0]
                    ));
                }
                return Ok(names.clone());
            }
        }
        if let Some(((stem, count), files)) = self.series().into_iter().next() {
            let from = first_number(&files);
            let example = files.values().next().cloned().unwrap_or(stem);
            let all: Vec<String> = (from..from + count)
                .map(|number| self.naming.sibling(&example, number).unwrap_or_default())
                .collect();
            let missing: Vec<&String> = all.iter().filter(|n| !self.present.contains(*n)).collect();
            return Err(self.incomplete(all.len(), &missing));
        }
        let plain = |name: &&String| !name.starts_with(CONSOLIDATED);
        let named: Vec<String> = self.present.iter().filter(plain).cloned().collect();
        let names = if named.is_empty() { self.present.iter().cloned().collect() } else { named };
        match names.len() {
            0 => Err(Unusable::Absent),
            1 => Ok(names),
            _ => Ok(self.disjoint(names)?),
        }
    }

    /// Files whose names say nothing: together the model, if no tensor is in two of them.
    fn disjoint(&mut self, names: Vec<String>) -> Result<Vec<String>> {
        let files = self.open(&names)?;
        let mut homes: HashMap<&str, usize> = HashMap::new();
        for (number, file) in files.iter().enumerate() {
            for entry in file.entries() {
                if let Some(first) = homes.insert(entry.name, number) {
                    let detail = format!(
                        "{} {} files and no {} to say which of them make the model: '{}' and '{}' both hold \
                         '{}'; move what does not belong to it elsewhere",
                        names.len(),
                        self.naming.suffix.trim_start_matches('.'),
                        self.naming.index,
                        names[first],
                        names[number],
                        entry.name
                    );
                    return Err(Error::format(self.dir, detail));
                }
            }
        }
        self.warnings.push(format!(
            "there is no {}; the {} files from '{}' to '{}' share no tensor and are taken together",
            self.naming.index,
            names.len(),
            names[0],
            names[names.len() - 1]
        ));
        Ok(names)
    }

    /// Compares `files` with the index. Tensors are taken from where they are; of several places,
    /// the index's.
    fn check_against(
        mut self,
        mut files: Vec<WeightsFile>,
        index: &ShardIndex,
    ) -> Result<WeightFiles, Unusable> {
        self.add_holders(&mut files, index)?;
        let mut places: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (number, file) in files.iter().enumerate() {
            for entry in file.entries() {
                places.entry(entry.name.to_string()).or_default().push(number);
            }
        }
        let file_name = |number: usize| {
            files[number].path().file_name().map(|n| n.to_string_lossy()).unwrap_or_default()
        };
        let is_in =
            |tensor: &str, number: usize| index.file_of(tensor) == Some(&*file_name(number));
        let (mut moved, mut absent) = (Vec::new(), Vec::new());
        for tensor in index.tensors() {
            match places.get(tensor) {
                None => absent.push(tensor),
                Some(at) if !at.iter().any(|&number| is_in(tensor, number)) => moved.push(tensor),
                Some(_) => {}
            }
        }
        let unlisted: Vec<&String> =
            places.keys().filter(|tensor| index.file_of(tensor).is_none()).collect();
        let name = self.naming.index;
        if let Some(first) = moved.first() {
            let number = places[*first][0];
            self.warnings.push(format!(
                "{name} puts {} tensors into other files than hold them, '{first}' for one into '{}'; it is \
                 read from '{}'",
                moved.len(),
                index.file_of(first).unwrap_or_default(),
                file_name(number)
            ));
        }
        if let Some(first) = absent.first() {
            self.warnings.push(format!(
                "{name} lists {} tensors that no file holds, '{first}' for one, said to be in '{}'; they are \
                 taken to be left out",
                absent.len(),
                index.file_of(first).unwrap_or_default()
            ));
        }
        if let Some(first) = unlisted.first() {
            self.warnings.push(format!(
                "{name} does not list {} tensors that its files hold, '{first}' in '{}' for one; they are \
                 read",
                unlisted.len(),
                file_name(places[*first][0])
            ));
        }
        let mut homes = HashMap::new();
        for (tensor, at) in places.iter().filter(|(_, at)| at.len() > 1) {
            if let Some(&home) = at.iter().find(|&&number| is_in(tensor, number)) {
                homes.insert(tensor.clone(), home);
            }
        }
        if let Some((tensor, &home)) = homes.iter().min_by_key(|(tensor, _)| *tensor) {
            self.warnings.push(format!(
                "{} tensors are in several files, '{tensor}' for one; it is read from '{}', where {name} puts \
                 it",
                homes.len(),
                file_name(home)
            ));
        }
        self.resolve(files, homes)
    }

    /// Adds files of the folder that hold tensors of the index which `files` lack.
    fn add_holders(&self, files: &mut Vec<WeightsFile>, index: &ShardIndex) -> Result<()> {
        let mut held = names_of(files);
        if index.tensors().all(|tensor| held.contains(tensor)) {
            return Ok(());
        }
        let opened: BTreeSet<_> = files.iter().map(|file| file.path().to_path_buf()).collect();
        for path in self.present.iter().map(|name| self.dir.join(name)) {
            if opened.contains(&path) {
                continue;
            }
            let Ok(file) = WeightsFile::open(&path) else { continue };
            let mut names = file.entries().into_iter().map(|entry| entry.name);
            if names.any(|name| index.file_of(name).is_some() && !held.contains(name)) {
                held.extend(file.entries().iter().map(|entry| entry.name.to_string()));
                files.push(file);
            }
        }
        Ok(())
    }

    /// Tensors that are in several files, which no index tells apart, must be copies of each other.
    fn resolve(
        mut self,
        files: Vec<WeightsFile>,
        mut homes: HashMap<String, usize>,
    ) -> Result<WeightFiles, Unusable> {
        let mut first_at: HashMap<&str, (usize, usize)> = HashMap::new();
        let entries: Vec<_> = files.iter().map(WeightsFile::entries).collect();
        let mut copies = 0;
        for (number, file) in files.iter().enumerate() {
            let before = copies;
            for (within, entry) in entries[number].iter().enumerate() {
                let Some(&(other, at)) = first_at.get(entry.name) else {
                    first_at.insert(entry.name, (number, within));
                    continue;
                };
                if homes.contains_key(entry.name) {
                    continue;
                }
                let twin = entries[other][at];
                let alike = (twin.dtype, twin.shape) == (entry.dtype, entry.shape)
                    && files[other].tensor_bytes(at) == file.tensor_bytes(within);
                if !alike {
                    let detail = format!(
                        "is in {} too, with other values, and nothing says which of them counts",
                        files[other].path().display()
                    );
                    let origin = file.path().display().to_string();
                    return Err(Unusable::Broken(Error::tensor(origin, entry.name, detail)));
                }
                homes.insert(entry.name.to_string(), other);
                copies += 1;
            }
            let own = entries[number].len() - (copies - before);
            if own == 0 && copies > before {
                let detail = format!(
                    "holds no tensor of its own: each is in {} or another file too, so one was copied over it",
                    files[0].path().display()
                );
                return Err(Unusable::Broken(Error::format(file.path(), detail)));
            }
        }
        if copies > 0 {
            self.warnings.push(format!(
                "{copies} tensors of {} are in two files each, with equal values",
                self.dir.display()
            ));
        }
        drop((first_at, entries));
        Ok(WeightFiles { files, homes, warnings: self.warnings })
    }
}

/// The number that the first file of a series has: 1, or 0 where one is called so.
fn first_number(files: &BTreeMap<u32, String>) -> u32 {
    files.keys().next().copied().unwrap_or(1).min(1)
}

/// What Mistral calls the files of its own format, which lie beside those of transformers.
const CONSOLIDATED: &str = "consolidated";
