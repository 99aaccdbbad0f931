/// CRC-32C (Castagnoli, reflected polynomial 0x82F63B78; RFC 3720 appendix B.4), computed piece by piece, eight bytes a
/// step.
///
/// A step waits for the look-ups of the one before it: long pieces are therefore taken as four strands side by side,
/// joined by what a checksum becomes over as many zero bytes.
package struct CRC32C: Sendable {
    private var state: UInt32 = ~0

    package init() {}

    package init(_ bytes: UnsafeRawBufferPointer) {
        update(bytes)
    }

    /// The checksum of all bytes so far.
    package var value: UInt32 { ~state }

    /// Eight lower-case hexadecimal digits, as in `hssl.crc32c`.
    package var hexadecimal: String {
        let digits = String(value, radix: 16)
        return String(repeating: "0", count: 8 - digits.count) + digits
    }

    package mutating func update(_ bytes: UnsafeRawBufferPointer) {
        guard let base = bytes.baseAddress else { return }
        let tables = Self.tables
        var crc = state
        var offset = 0
        while bytes.count &- offset >= 4 &* Self.strand {
            crc = Self.fourStrands(base + offset, crc, tables)
            offset &+= 4 &* Self.strand
        }
        while offset &+ 8 <= bytes.count {
            crc = Self.step(base + offset, crc, tables)
            offset &+= 8
        }
        while offset < bytes.count {
            crc = (crc >> 8) ^ tables[Int((crc ^ UInt32(base.load(fromByteOffset: offset, as: UInt8.self))) & 0xff)]
            offset &+= 1
        }
        state = crc
    }

    /// Bytes of a strand; a power of two.
    private static let strand = 4096

    @inline(__always)
    private static func step(_ bytes: UnsafeRawPointer, _ crc: UInt32, _ tables: UnsafePointer<UInt32>) -> UInt32 {
        let word = UInt64(littleEndian: bytes.loadUnaligned(as: UInt64.self)) ^ UInt64(crc)
        let low = UInt32(truncatingIfNeeded: word)
        let high = UInt32(truncatingIfNeeded: word >> 32)
        let a = tables[1792 &+ Int(low & 0xff)] ^ tables[1536 &+ Int((low >> 8) & 0xff)]
        let b = tables[1280 &+ Int((low >> 16) & 0xff)] ^ tables[1024 &+ Int(low >> 24)]
        let c = tables[768 &+ Int(high & 0xff)] ^ tables[512 &+ Int((high >> 8) & 0xff)]
        let d = tables[256 &+ Int((high >> 16) & 0xff)] ^ tables[Int(high >> 24)]
        return (a ^ b) ^ (c ^ d)
    }

    private static func fourStrands(
        _ bytes: UnsafeRawPointer, _ crc: UInt32, _ tables: UnsafePointer<UInt32>
    ) -> UInt32 {
        var (a, b, c, d) = (crc, UInt32(0), UInt32(0), UInt32(0))
        var offset = 0
        while offset < strand {
            a = step(bytes + offset, a, tables)
            b = step(bytes + (offset &+ strand), b, tables)
            c = step(bytes + (offset &+ 2 &* strand), c, tables)
            d = step(bytes + (offset &+ 3 &* strand), d, tables)
            offset &+= 8
        }
        return advance(advance(advance(a) ^ b) ^ c) ^ d
    }

    /// A checksum after `strand` zero bytes. Linear over its bits.
    private static func advance(_ crc: UInt32) -> UInt32 {
        var result: UInt32 = 0
        for bit in 0..<32 where crc >> bit & 1 == 1 { result ^= overStrand[bit] }
        return result
    }

    /// What each bit of a checksum becomes over `strand` zero bytes: over one byte, squared log2(strand) times.
    private static let overStrand: [UInt32] = {
        var over = (0..<32).map { bit in bit < 8 ? tables[1 << bit] : 1 << UInt32(bit - 8) }
        for _ in 0..<strand.trailingZeroBitCount {
            let half = over
            over = half.map { crc in (0..<32).reduce(UInt32(0)) { $0 ^ (crc >> $1 & 1 == 1 ? half[$1] : 0) } }
        }
        return over
    }()

    /// Row j (256 entries) advances a byte past j further zero bytes. Written once, then only read: hence safe to
    /// share.
    private nonisolated(unsafe) static let tables: UnsafePointer<UInt32> = {
        let table = UnsafeMutablePointer<UInt32>.allocate(capacity: 8 * 256)
        for byte in 0..<256 {
            var crc = UInt32(byte)
            for _ in 0..<8 { crc = (crc >> 1) ^ (crc & 1 == 1 ? 0x82F6_3B78 : 0) }
            table[byte] = crc
        }
        for index in 256..<8 * 256 {
            let crc = table[index - 256]
            table[index] = (crc >> 8) ^ table[Int(crc & 0xff)]
        }
        return UnsafePointer(table)
    }()
}
