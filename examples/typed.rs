//! Typed values in one block: a header, names, and a column of numbers that is read without being copied.
//!
//! The writer gathers the values and knows their hash only at `commit`; the reader checks each step against the end of
//! the block, so that a block of another layout is an error and never a wrong value.
#![forbid(unsafe_code)]

use std::error::Error;

use scratchspace::bytemuck::{Pod, Zeroable};
use scratchspace::{BlittableError, BlittableReader, BlockHash, DiskFileSource, Realm, Scratch};

/// Any struct without padding whose fields may hold all bit patterns can be written and read as it lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[bytemuck(crate = "scratchspace::bytemuck")]
#[repr(C)]
struct Header {
    version: u32,
    /// Seconds between two measurements.
    interval: u32,
    /// Where they were taken, in degrees.
    latitude: f32,
    longitude: f32,
}

/// What a reader makes of a table without copying its column.
#[derive(Debug, PartialEq)]
struct Summary {
    header: Header,
    names: Vec<String>,
    rows: usize,
    warmest: f32,
}

const WEATHER: Realm = Realm::DEFAULT;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let source = DiskFileSource::builder().folder(folder.path()).files_per_folder(4).file_size(4 << 20).build()?;
    let scratch = Scratch::open(source)?;

    let header = Header { version: 1, interval: 60, latitude: 52.5, longitude: 13.4 };
    let names = ["Tempelhof", "Dahlem", "Adlershof"];
    let celsius: Vec<f32> = (0_u8..240).map(|minute| 12.0 + f32::from(minute) / 60.0).collect();
    let table = write_table(&scratch, header, &names, celsius.clone())?;
    println!("Wrote a header, {} names and {} temperatures as one block.", names.len(), celsius.len());
    println!("It is found again by the hash of its bytes: {table}");

    let summary = read_table(&scratch, table)?;
    println!("Read back, the temperatures without a copy:");
    println!("  header        {:?}", summary.header);
    println!("  names         {}", summary.names.join(", "));
    println!("  temperatures  {} rows, the warmest is {:.1} degrees", summary.rows, summary.warmest);
    let expected = Summary { header, names: names.map(str::to_owned).to_vec(), rows: 240, warmest: celsius[239] };
    assert_eq!(summary, expected);
    Ok(())
}

fn write_table(
    scratch: &Scratch,
    header: Header,
    names: &[&str],
    celsius: Vec<f32>,
) -> Result<BlockHash, Box<dyn Error>> {
    let mut writer = scratch.writer(WEATHER);
    writer.write(&header);
    // How many names follow is known once they are written: leave room now, fill it in later.
    let name_count = writer.delayed::<u64>();
    let mut count = 0_u64;
    for name in names.iter().filter(|name| !name.is_empty()) {
        writer.write_str(name);
        count += 1;
    }
    writer.set(name_count, &count);
    writer.write(&(celsius.len() as u64));
    // Aligned in the block is aligned in memory: a reader may borrow the column.
    writer.align_to::<f32>();
    // The vector moves into the writer and is stored from where it lies.
    writer.write_vec(celsius);
    Ok(writer.commit()?)
}

fn read_table(scratch: &Scratch, table: BlockHash) -> Result<Summary, Box<dyn Error>> {
    let read = |reader: &mut BlittableReader<'_>| {
        let header: Header = reader.read()?;
        let count: u64 = reader.read()?;
        let names = (0..count).map(|_| Ok(reader.read_str()?.to_owned())).collect::<Result<_, BlittableError>>()?;
        let rows = usize::try_from(reader.read::<u64>()?).unwrap_or(usize::MAX); // too many for the block in any case
        reader.align_to::<f32>()?;
        // Borrowed from the store, which lends it straight from its mapping.
        let celsius: &[f32] = reader.read_slice(rows)?;
        let warmest = celsius.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        Ok::<_, BlittableError>(Summary { header, names, rows, warmest })
    };
    Ok(scratch.read_with(WEATHER, table, read)?)
}
