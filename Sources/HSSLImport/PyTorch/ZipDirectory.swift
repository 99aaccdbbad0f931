import HSSLFormats

/// What is wrong with the content of a foreign file, in one line.
struct ForeignFault: Error, Equatable {
    let reason: String
    init(_ reason: String) { self.reason = reason }
}

/// One file of an archive: where its bytes are.
struct ZipEntry: Equatable {
    let name: String
    /// Of what stands before its bytes: its own header.
    let header: Int
    let range: Range<Int>
    let checksum: UInt32
}

/// The directory of a zip archive as PyTorch writes it: every entry stored as it is, nothing compressed, so that no
/// file becomes larger than the archive. Sizes are believed only where the directory and the places of the files agree.
///
/// Source: PKWARE's APPNOTE 6.3.
enum ZipDirectory {
    static let entryLimit = 200_000

    private struct End {
        /// Where the directory begins, and where it ends.
        let begin, end: Int
        let entries: Int
    }

    static func isZip(_ bytes: UnsafeRawBufferPointer) -> Bool { bytes.integer(at: 0, count: 4) == 0x0403_4b50 }

    static func entries(_ bytes: UnsafeRawBufferPointer) throws(ForeignFault) -> [ZipEntry] {
        let end = try end(bytes)
        guard end.entries <= entryLimit else {
            throw ForeignFault("the zip has \(end.entries) entries; at most \(entryLimit)")
        }
        var entries: [ZipEntry] = []
        var names: Set<String> = []
        var offset = end.begin
        for _ in 0..<end.entries {
            let (entry, next) = try entry(bytes, at: offset, end)
            guard names.insert(entry.name).inserted else {
                throw ForeignFault("the zip names '\(oneLine(entry.name))' twice")
            }
            entries.append(entry)
            offset = next
        }
        guard offset == end.end else { throw ForeignFault("the zip's directory is longer than its entries") }
        var last = 0
        for entry in entries.sorted(by: { $0.range.lowerBound < $1.range.lowerBound }) {
            guard entry.header >= last else {
                throw ForeignFault("entries of the zip overlap at '\(oneLine(entry.name))'")
            }
            last = entry.range.upperBound
        }
        return entries
    }

    private static func end(_ bytes: UnsafeRawBufferPointer) throws(ForeignFault) -> End {
        var place = bytes.count - 22
        while place >= max(0, bytes.count - 22 - 65_535) {
            if bytes.integer(at: place, count: 4) == 0x0605_4b50,
                bytes.integer(at: place + 20, count: 2) == bytes.count - place - 22
            {
                break
            }
            place -= 1
        }
        guard place >= max(0, bytes.count - 22 - 65_535),
            let disk = bytes.integer(at: place + 4, count: 4), disk == 0,
            let here = bytes.integer(at: place + 8, count: 2), let all = bytes.integer(at: place + 10, count: 2),
            let size = bytes.integer(at: place + 12, count: 4), let begin = bytes.integer(at: place + 16, count: 4)
        else { throw ForeignFault("the zip is cut off: it has no end of directory") }
        var end = (entries: all, size: size, begin: begin, limit: place)
        var isLong = false
        // PyTorch writes the 64-bit end besides, whatever the size.
        if place >= 20, bytes.integer(at: place - 20, count: 4) == 0x0706_4b50 {
            guard let long = bytes.integer(at: place - 12, count: 8), long >= 0, long + 56 <= place - 20,
                bytes.integer(at: long, count: 4) == 0x0606_4b50,
                let count = bytes.integer(at: long + 32, count: 8),
                let bytesOf = bytes.integer(at: long + 40, count: 8),
                let start = bytes.integer(at: long + 48, count: 8)
            else { throw ForeignFault("the zip's 64-bit end of directory is damaged") }
            guard all == 0xFFFF || all == count, size == 0xFFFF_FFFF || size == bytesOf,
                begin == 0xFFFF_FFFF || begin == start
            else { throw ForeignFault("the zip's two ends of directory contradict one another") }
            end = (count, bytesOf, start, long)
            isLong = true
        }
        guard isLong || here == all else { throw ForeignFault("the zip is one of several parts") }
        guard end.begin >= 0, end.size >= 0, end.entries >= 0, end.begin <= end.limit, end.size == end.limit - end.begin
        else { throw ForeignFault("the zip's directory is not where its end says") }
        return End(begin: end.begin, end: end.limit, entries: end.entries)
    }

    private static func entry(
        _ bytes: UnsafeRawBufferPointer, at offset: Int, _ end: End
    ) throws(ForeignFault) -> (ZipEntry, next: Int) {
        guard offset + 46 <= end.end, bytes.integer(at: offset, count: 4) == 0x0201_4b50,
            let flags = bytes.integer(at: offset + 8, count: 2), let method = bytes.integer(at: offset + 10, count: 2),
            let checksum = bytes.integer(at: offset + 16, count: 4),
            var packed = bytes.integer(at: offset + 20, count: 4), var size = bytes.integer(at: offset + 24, count: 4),
            let nameCount = bytes.integer(at: offset + 28, count: 2),
            let extraCount = bytes.integer(at: offset + 30, count: 2),
            let commentCount = bytes.integer(at: offset + 32, count: 2),
            var local = bytes.integer(at: offset + 42, count: 4)
        else { throw ForeignFault("the zip's directory is damaged at byte \(offset)") }
        let next = offset + 46 + nameCount + extraCount + commentCount
        guard next <= end.end else { throw ForeignFault("the zip's directory is damaged at byte \(offset)") }
        let nameBytes = bytes[offset + 46..<offset + 46 + nameCount]
        guard let name = String(validating: nameBytes, as: UTF8.self) else {
            throw ForeignFault("a name in the zip is not UTF-8")
        }
        try check(name)
        guard flags & 1 == 0 else { throw ForeignFault("'\(oneLine(name))' in the zip is encrypted") }
        guard method == 0 else {
            throw ForeignFault(
                "'\(oneLine(name))' in the zip is compressed (method \(method)); PyTorch stores files as they are")
        }
        // 64-bit values of what is all ones, in this order.
        var extra = offset + 46 + nameCount
        let extraEnd = extra + extraCount
        while extra + 4 <= extraEnd, let kind = bytes.integer(at: extra, count: 2),
            let count = bytes.integer(at: extra + 2, count: 2)
        {
            guard extra + 4 + count <= extraEnd else {
                throw ForeignFault("'\(oneLine(name))' in the zip has a damaged extra field")
            }
            if kind == 1 {
                var place = extra + 4
                func long(_ value: inout Int) throws(ForeignFault) {
                    guard value == 0xFFFF_FFFF else { return }
                    guard place + 8 <= extra + 4 + count, let found = bytes.integer(at: place, count: 8) else {
                        throw ForeignFault("'\(oneLine(name))' in the zip has a damaged 64-bit size")
                    }
                    (value, place) = (found, place + 8)
                }
                try long(&size)
                try long(&packed)
                try long(&local)
            }
            extra += 4 + count
        }
        guard packed == size else {
            throw ForeignFault("'\(oneLine(name))' in the zip has \(packed) bytes for \(size) stored ones")
        }
        guard local >= 0, local + 30 <= end.begin, bytes.integer(at: local, count: 4) == 0x0403_4b50,
            let localName = bytes.integer(at: local + 26, count: 2),
            let localExtra = bytes.integer(at: local + 28, count: 2)
        else { throw ForeignFault("'\(oneLine(name))' in the zip is not where the directory says") }
        let data = local + 30 + localName + localExtra
        guard data <= end.begin, size <= end.begin - data else {
            throw ForeignFault("'\(oneLine(name))' in the zip reaches beyond its data: \(size) bytes")
        }
        guard localName == nameCount, bytes[local + 30..<local + 30 + localName].elementsEqual(nameBytes),
            bytes.integer(at: local + 8, count: 2) == 0
        else { throw ForeignFault("'\(oneLine(name))' in the zip has another name or method where its data begin") }
        return (ZipEntry(name: name, header: local, range: data..<data + size, checksum: UInt32(checksum)), next)
    }

    private static func check(_ name: String) throws(ForeignFault) {
        let parts = name.split(separator: "/", omittingEmptySubsequences: false)
        guard !name.isEmpty, !name.hasPrefix("/"), !name.utf8.contains(0), !name.utf8.contains(UInt8(ascii: "\\")),
            !parts.contains(".."), !parts.contains("") || name.hasSuffix("/")
        else { throw ForeignFault("the zip holds the name '\(oneLine(name))', which is no path inside it") }
    }

    // MARK: CRC-32

    private static let table: [UInt32] = (0..<256).map { index in
        (0..<8).reduce(UInt32(index)) { value, _ in value & 1 == 1 ? 0xEDB8_8320 ^ value >> 1 : value >> 1 }
    }

    /// CRC-32 as zip has it.
    static func checksum(_ bytes: UnsafeRawBufferPointer) -> UInt32 {
        var value: UInt32 = 0xFFFF_FFFF
        table.withUnsafeBufferPointer { table in
            for byte in bytes { value = table[Int((value ^ UInt32(byte)) & 0xFF)] ^ value >> 8 }
        }
        return ~value
    }
}

extension UnsafeRawBufferPointer {
    /// A little-endian integer of so many bytes; nil where the buffer ends before it, or it exceeds Int.
    func integer(at offset: Int, count size: Int) -> Int? {
        guard offset >= 0, size <= count, offset <= count - size else { return nil }
        var value: UInt64 = 0
        for i in 0..<size { value |= UInt64(self[offset + i]) << (8 * UInt64(i)) }
        return Int(exactly: value)
    }
}
