#if canImport(Glibc)
import Glibc
#endif

/// The parsed and fully validated header of a safetensors file.
///
/// Names, shapes and metadata stay in the header's own bytes (unescaped in place) and are looked up through a hash
/// table of indices. So the most hostile header of 8 MB costs 8 MB plus at most 36 bytes a tensor, and is refused on
/// the way, in one pass.
final class SafetensorsHeader: @unchecked Sendable {  // immutable after init
    static let tensorLimit = 65_536
    /// PyTorch's own limit.
    static let dimensionLimit = 64

    struct Entry {
        var nameStart: UInt32, nameLength: UInt32
        /// Where the digits of the shape begin, after '['.
        var shapeStart: UInt32
        var rank: UInt8
        var dtype: SafetensorsDType
        /// Bytes in the data section.
        var begin: Int, end: Int

        var name: Range<Int> { Int(nameStart)..<Int(nameStart) + Int(nameLength) }
    }

    private struct MetadataEntry {
        var key: Range<Int>, value: Range<Int>
    }

    private let text: UnsafeMutableBufferPointer<UInt8>
    /// In the order of their data.
    private(set) var entries: [Entry] = []
    private var metadataEntries: [MetadataEntry] = []
    private var table = NameTable()

    /// Takes over `text` (deallocates it, also when it throws). `dataBytes` is what the file holds after the header.
    init(takingOver text: UnsafeMutableBufferPointer<UInt8>, dataBytes: Int) throws(SafetensorsError.Fault) {
        self.text = text
        guard let base = text.baseAddress, text[0] == UInt8(ascii: "{") else { throw .headerNotAnObject }
        do throws(HeaderFault) {
            try parse(base)
        } catch {
            switch error {
            case .json(let error): throw .malformedHeader(error)
            case .fault(let fault): throw fault
            }
        }
        try checkNames()
        try checkLayout(dataBytes)
    }

    deinit { text.deallocate() }

    // MARK: Look-up

    func index(of name: String) -> Int? {
        var name = name
        return name.withUTF8 { wanted in table.find(wanted) { bytes(entries[$0].name) } }
    }

    func metadataValue(_ key: String) -> String? {
        let key = Array(key.utf8)
        return metadataEntries.first { bytes($0.key).elementsEqual(key) }.map {
            String(decoding: bytes($0.value), as: UTF8.self)
        }
    }

    /// All metadata, made when asked for: a file that is refused after all shall not cost this memory.
    func metadata() throws(SafetensorsError.Fault) -> [String: String] {
        var result: [String: String] = [:]
        result.reserveCapacity(metadataEntries.count)
        for entry in metadataEntries {
            let key = String(decoding: bytes(entry.key), as: UTF8.self)
            // Keys of different bytes that Swift holds equal (composed and decomposed letters).
            if result.updateValue(String(decoding: bytes(entry.value), as: UTF8.self), forKey: key) != nil {
                throw .duplicateName("__metadata__.\(shown(entry.key))")
            }
        }
        return result
    }

    private func bytes(_ range: Range<Int>) -> UnsafeBufferPointer<UInt8> {
        UnsafeBufferPointer(rebasing: UnsafeBufferPointer(text)[range])
    }

    func name(of entry: Entry) -> String { String(decoding: text[entry.name], as: UTF8.self) }

    func shape(of entry: Entry) -> [Int] {
        guard let base = text.baseAddress else { return [] }
        var scanner = JSONScanner(base, count: text.count, position: Int(entry.shapeStart))
        var shape: [Int] = []
        shape.reserveCapacity(Int(entry.rank))
        for _ in 0..<entry.rank {
            // Cannot fail: the same private bytes were parsed before.
            guard let dimension = try? scanner.scanUnsignedInteger() else { break }
            shape.append(dimension)
            _ = scanner.take(UInt8(ascii: ","))
        }
        return shape
    }

    // MARK: Parsing

    private enum HeaderFault: Error {
        case json(JSONError), fault(SafetensorsError.Fault)
    }

    /// Runs a scanner call, with its error as ours.
    @inline(__always)
    private func scan<T>(_ body: () throws(JSONError) -> T) throws(HeaderFault) -> T {
        do throws(JSONError) { return try body() } catch { throw .json(error) }
    }

    private func parse(_ base: UnsafeMutablePointer<UInt8>) throws(HeaderFault) {
        var scanner = JSONScanner(base, count: text.count)
        var hasMetadata = false
        // Untouched capacity costs no memory; growth by doubling would.
        entries.reserveCapacity(min(Self.tensorLimit, text.count / 48 + 1))
        try scan { () throws(JSONError) in try scanner.expect(UInt8(ascii: "{")) }
        if !scanner.take(UInt8(ascii: "}")) {
            repeat {
                let key = try scan { () throws(JSONError) in
                    let key = try scanner.scanString()
                    try scanner.expect(UInt8(ascii: ":"))
                    return key
                }
                if scanner.equals(key, "__metadata__") {
                    if hasMetadata { throw .fault(.duplicateName("__metadata__")) }
                    hasMetadata = true
                    try parseMetadata(&scanner)
                } else {
                    if entries.count == Self.tensorLimit { throw .fault(.tooManyTensors(limit: Self.tensorLimit)) }
                    entries.append(try parseTensor(&scanner, name: key))
                }
            } while scanner.take(UInt8(ascii: ","))
            try scan { () throws(JSONError) in try scanner.expect(UInt8(ascii: "}")) }
        }
        for index in scanner.position..<text.count where base[index] != 0x20 {
            throw .fault(.textAfterHeader(offset: index))
        }
    }

    private func parseMetadata(_ scanner: inout JSONScanner) throws(HeaderFault) {
        // What some writers make of no metadata.
        if scanner.take("null") { return }
        try scan { () throws(JSONError) in try scanner.expect(UInt8(ascii: "{")) }
        if scanner.take(UInt8(ascii: "}")) { return }
        repeat {
            if metadataEntries.count == Self.tensorLimit {
                throw .fault(.tooManyMetadataEntries(limit: Self.tensorLimit))
            }
            metadataEntries.append(
                try scan { () throws(JSONError) in
                    let key = try scanner.scanString()
                    try scanner.expect(UInt8(ascii: ":"))
                    return MetadataEntry(key: key, value: try scanner.scanString())
                })
        } while scanner.take(UInt8(ascii: ","))
        try scan { () throws(JSONError) in try scanner.expect(UInt8(ascii: "}")) }
    }

    private func parseTensor(_ scanner: inout JSONScanner, name: Range<Int>) throws(HeaderFault) -> Entry {
        for index in name where text[index] == 0 { throw .fault(.invalidName(shown(name))) }
        if name.isEmpty { throw .fault(.invalidName("")) }
        var dtype: SafetensorsDType?
        var shapeStart: Int?
        var rank = 0
        var elements: Int?  // nil: overflow
        var offsets: (begin: Int, end: Int)?

        try scan { () throws(JSONError) in try scanner.expect(UInt8(ascii: "{")) }
        if !scanner.take(UInt8(ascii: "}")) {
            repeat {
                let field = try scan { () throws(JSONError) in
                    let field = try scanner.scanString()
                    try scanner.expect(UInt8(ascii: ":"))
                    return field
                }
                if scanner.equals(field, "dtype") {
                    if dtype != nil { throw .fault(.duplicateField(tensor: shown(name), field: "dtype")) }
                    let value = try scan { () throws(JSONError) in try scanner.scanString() }
                    guard let known = knownDType(scanner, value) else {
                        throw .fault(.unknownDType(tensor: shown(name), dtype: shown(value)))
                    }
                    dtype = known
                } else if scanner.equals(field, "shape") {
                    if shapeStart != nil { throw .fault(.duplicateField(tensor: shown(name), field: "shape")) }
                    try scan { () throws(JSONError) in try scanner.expect(UInt8(ascii: "[")) }
                    shapeStart = scanner.position
                    elements = try parseDimensions(&scanner, name: name, rank: &rank)
                } else if scanner.equals(field, "data_offsets") {
                    if offsets != nil { throw .fault(.duplicateField(tensor: shown(name), field: "data_offsets")) }
                    offsets = try scan { () throws(JSONError) in
                        try scanner.expect(UInt8(ascii: "["))
                        let begin = try scanner.scanUnsignedInteger()
                        try scanner.expect(UInt8(ascii: ","))
                        let end = try scanner.scanUnsignedInteger()
                        try scanner.expect(UInt8(ascii: "]"))
                        return (begin, end)
                    }
                } else {
                    throw .fault(.unknownField(tensor: shown(name), field: shown(field)))
                }
            } while scanner.take(UInt8(ascii: ","))
            try scan { () throws(JSONError) in try scanner.expect(UInt8(ascii: "}")) }
        }

        guard let dtype else { throw .fault(.missingField(tensor: shown(name), field: "dtype")) }
        guard let shapeStart else { throw .fault(.missingField(tensor: shown(name), field: "shape")) }
        guard let offsets else { throw .fault(.missingField(tensor: shown(name), field: "data_offsets")) }
        guard let elements else { throw .fault(.sizeOverflow(tensor: shown(name))) }
        guard let bytes = dtype.bytes(elements) else {
            let isSmall = elements < Int.max / 8
            throw .fault(isSmall ? .partialByte(tensor: shown(name)) : .sizeOverflow(tensor: shown(name)))
        }
        let (found, negative) = offsets.end.subtractingReportingOverflow(offsets.begin)
        if negative || found != bytes {
            throw .fault(.sizeMismatch(tensor: shown(name), expected: bytes, found: found))
        }
        return Entry(
            nameStart: UInt32(name.lowerBound), nameLength: UInt32(name.count), shapeStart: UInt32(shapeStart),
            rank: UInt8(rank), dtype: dtype, begin: offsets.begin, end: offsets.end)
    }

    /// The number of elements, or nil if it overflows, also when only a zero hides the overflow: shape arithmetic
    /// downstream must be safe.
    private func parseDimensions(
        _ scanner: inout JSONScanner, name: Range<Int>, rank: inout Int
    ) throws(HeaderFault) -> Int? {
        if scanner.take(UInt8(ascii: "]")) { return 1 }
        var product: Int? = 1
        var isEmpty = false
        repeat {
            if rank == Self.dimensionLimit {
                throw .fault(.tooManyDimensions(tensor: shown(name), limit: Self.dimensionLimit))
            }
            let dimension = try scan { () throws(JSONError) in try scanner.scanUnsignedInteger() }
            rank += 1
            if dimension == 0 {
                isEmpty = true
            } else if let value = product {
                let (next, overflow) = value.multipliedReportingOverflow(by: dimension)
                product = overflow ? nil : next
            }
        } while scanner.take(UInt8(ascii: ","))
        try scan { () throws(JSONError) in try scanner.expect(UInt8(ascii: "]")) }
        return isEmpty && product != nil ? 0 : product
    }

    private func knownDType(_ scanner: JSONScanner, _ range: Range<Int>) -> SafetensorsDType? {
        // The common ones first, without making a String.
        if scanner.equals(range, "F32") { return .float32 }
        if scanner.equals(range, "F16") { return .float16 }
        return range.count <= 16 ? SafetensorsDType(rawValue: scanner.text(range)) : nil
    }

    /// A name as it may stand in an error: hostile ones are megabytes long.
    private func shown(_ range: Range<Int>) -> String {
        oneLine(String(decoding: text[range.lowerBound..<min(range.upperBound, range.lowerBound + 256)], as: UTF8.self))
    }

    // MARK: Checks over all tensors

    private func checkNames() throws(SafetensorsError.Fault) {
        // The table holds indices in data order, so entries are put into it first; most files have it already.
        let isSorted = zip(entries, entries.dropFirst()).allSatisfy { ($0.begin, $0.end) <= ($1.begin, $1.end) }
        if !isSorted { entries.sort { ($0.begin, $0.end) < ($1.begin, $1.end) } }
        table = NameTable(capacity: entries.count)
        for index in entries.indices where !table.insert(index, name: { bytes(entries[$0].name) }) {
            throw .duplicateName(shown(entries[index].name))
        }
        var keys = NameTable(capacity: metadataEntries.count)
        for index in metadataEntries.indices where !keys.insert(index, name: { bytes(metadataEntries[$0].key) }) {
            throw .duplicateName("__metadata__.\(shown(metadataEntries[index].key))")
        }
    }

    private func checkLayout(_ dataBytes: Int) throws(SafetensorsError.Fault) {
        var covered = 0
        for entry in entries {
            if entry.end > dataBytes {
                throw .offsetsBeyondData(tensor: shown(entry.name), end: entry.end, dataBytes: dataBytes)
            }
            if entry.begin < covered { throw .overlap(tensor: shown(entry.name)) }
            if entry.begin > covered { throw .hole(tensor: shown(entry.name)) }
            covered = entry.end
        }
        if covered < dataBytes { throw .trailingBytes(dataBytes - covered) }
    }
}

/// Open-addressing hash table from names to indices; the names stay where they are. Swift's per-process random hash
/// seed keeps a hostile file from choosing colliding names.
struct NameTable {
    private static let free = UInt32.max
    private var slots: [UInt32] = []

    init() {}

    init(capacity: Int) {
        var size = 8
        while size < 2 * capacity { size *= 2 }
        slots = Array(repeating: Self.free, count: size)
    }

    /// False if the name is there already.
    mutating func insert(_ index: Int, name: (Int) -> UnsafeBufferPointer<UInt8>) -> Bool {
        let wanted = name(index)
        var slot = hash(wanted)
        while slots[slot] != Self.free {
            if equal(name(Int(slots[slot])), wanted) { return false }
            slot = (slot + 1) & (slots.count - 1)
        }
        slots[slot] = UInt32(index)
        return true
    }

    func find(_ wanted: UnsafeBufferPointer<UInt8>, name: (Int) -> UnsafeBufferPointer<UInt8>) -> Int? {
        if slots.isEmpty { return nil }
        var slot = hash(wanted)
        while slots[slot] != Self.free {
            if equal(name(Int(slots[slot])), wanted) { return Int(slots[slot]) }
            slot = (slot + 1) & (slots.count - 1)
        }
        return nil
    }

    private func hash(_ name: UnsafeBufferPointer<UInt8>) -> Int {
        var hasher = Hasher()
        hasher.combine(bytes: UnsafeRawBufferPointer(name))
        return hasher.finalize() & (slots.count - 1)
    }

    private func equal(_ a: UnsafeBufferPointer<UInt8>, _ b: UnsafeBufferPointer<UInt8>) -> Bool {
        guard a.count == b.count else { return false }
        guard let x = a.baseAddress, let y = b.baseAddress else { return true }
        return memcmp(x, y, a.count) == 0
    }
}
