import CSupport
#if canImport(Glibc)
import Glibc
#endif

/// A counter-based random stream (Philox4x32-10): the n-th number is a pure function of (seed, stream, n).
///
/// Two streams never interfere and nothing is shared between threads, so what is drawn for one image, step or tensor
/// does not depend on what was drawn elsewhere or on how many threads there are. Give every purpose its own `stream`
/// words.
///
/// Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
public struct CounterRandom: Sendable {
    private let key: UInt64
    private let stream: UInt64
    private var counter: UInt64 = 0
    private var words: (UInt32, UInt32, UInt32, UInt32) = (0, 0, 0, 0)
    private var used = 4

    /// - Parameters:
    ///   - seed: the run's seed.
    ///   - stream: what the numbers are for, most general first, e.g. `(purpose, step, image, view)`.
    public init(seed: UInt64, stream: UInt64...) {
        key = seed
        self.stream = Self.combine(stream)
    }

    /// One 64-bit identity for a list of stream words (SplitMix64 finaliser chained, so order matters).
    package static func combine(_ words: [UInt64]) -> UInt64 {
        var hash: UInt64 = 0x9E37_79B9_7F4A_7C15
        for word in words {
            hash = mix(hash &+ 0x9E37_79B9_7F4A_7C15 &+ mix(word))
        }
        return hash
    }

    private static func mix(_ value: UInt64) -> UInt64 {
        var z = value
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }

    /// Uniform over all 32-bit words.
    public mutating func nextUInt32() -> UInt32 {
        if used == 4 {
            withUnsafeMutableBytes(of: &words) { bytes in
                hssl_philox(key, counter, stream, bytes.bindMemory(to: UInt32.self).baseAddress)
            }
            counter &+= 1
            used = 0
        }
        defer { used += 1 }
        switch used {
        case 0: return words.0
        case 1: return words.1
        case 2: return words.2
        default: return words.3
        }
    }

    /// Uniform in [0, 1), 24 bits.
    public mutating func uniform() -> Float { Float(nextUInt32() >> 8) * 0x1p-24 }

    /// Uniform between `a` and `b`; `a` may exceed `b`, as in Python's `random.uniform`.
    public mutating func uniform(_ a: Float, _ b: Float) -> Float { a + (b - a) * uniform() }

    /// Uniform in 0 ..< `bound` (`bound` ≥ 1), without modulo bias (Lemire's rejection).
    public mutating func integer(below bound: Int) -> Int {
        precondition(bound >= 1 && bound <= Int(UInt32.max), "bound must be in 1 ... 2³²−1")
        let range = UInt64(bound)
        let threshold = (1 << 32) % range
        while true {
            let product = UInt64(nextUInt32()) * range
            if product & 0xFFFF_FFFF >= threshold { return Int(product >> 32) }
        }
    }

    /// Brings `elements` into a random order (Fisher–Yates from the end: one `integer(below:)` for each element but the
    /// first).
    public mutating func shuffle<Element>(_ elements: inout [Element]) {
        for i in stride(from: elements.count - 1, to: 0, by: -1) { elements.swapAt(i, integer(below: i + 1)) }
    }

    /// `elements` in a random order, as by `shuffle`.
    public mutating func shuffled<Element>(_ elements: some Sequence<Element>) -> [Element] {
        var order = Array(elements)
        shuffle(&order)
        return order
    }

    /// Standard normal (Box–Muller, one of the pair).
    public mutating func normal() -> Float {
        let u = (Double(nextUInt32()) + 0.5) * 0x1p-32
        let v = (Double(nextUInt32()) + 0.5) * 0x1p-32
        return Float((-2 * log(u)).squareRoot() * cos(2 * .pi * v))
    }
}
