import CSupport
import HSSLGraph
import HSSLModels

/// Matrix products at the shapes of a model, every instruction-set row that the machine has, against its register-only
/// peak in the same run.
public struct GemmBenchmark {
    public struct Row: Sendable {
        public let kind: String
        public let isa: String
        public let m: Int
        public let n: Int
        public let k: Int
        /// 2·M·N·K a second, median.
        public let operationsPerSecond: Double
        public let peakFraction: Double
    }

    /// Timed calls of a row; each is repeated until it takes a few milliseconds.
    public let repeats: Int

    public init(repeats: Int) { self.repeats = repeats }

    /// The products of a model, for the rows of one image and of eight.
    public func run(_ architecture: ModelArchitecture) -> [Row] {
        var shapes: [[Int]] = []
        let tape = ModelTrace(architecture).tape
        for node in tape.nodes {
            guard case .linear = node.operation, let n = node.shape.last else { continue }
            let shape = [node.shape.dropLast().reduce(1, *), n, tape.shapes[node.inputs[0]].last ?? 1]
            if !shapes.contains(shape) { shapes.append(shape) }
        }
        return run(shapes + shapes.map { [8 * $0[0], $0[1], $0[2]] })
    }

    private func run(_ shapes: [[Int]]) -> [Row] {
        let selected = hssl_isa_selected()
        defer { _ = hssl_isa_select(selected) }
        var rows: [Row] = []
        for isa in [HSSL_ISA_SCALAR, HSSL_ISA_AVX2, HSSL_ISA_AVX512, HSSL_ISA_AVX512VNNI] where hssl_isa_select(isa) {
            var peak = Peak()
            var timed: [(kind: Kind, m: Int, n: Int, k: Int, rate: Double)] = []
            for shape in shapes {
                let (m, n, k) = (shape[0], shape[1], shape[2])
                peak.probe()
                for kind in Kind.allCases { timed.append((kind, m, n, k, rate(kind, m, n, k))) }
            }
            rows += timed.map {
                Row(
                    kind: $0.kind.rawValue, isa: String(cString: hssl_isa_name(isa)), m: $0.m, n: $0.n, k: $0.k,
                    operationsPerSecond: $0.rate, peakFraction: $0.rate / ($0.kind == .int8 ? peak.int8 : peak.float32))
            }
        }
        return rows
    }

    /// The best of probes spread over a run: a peak that another process disturbed would flatter every fraction.
    struct Peak {
        var float32 = 0.0
        var int8 = 0.0

        mutating func probe() {
            float32 = max(float32, hssl_peak_f32(0.03))
            int8 = max(int8, hssl_peak_u8s8(0.03))
        }
    }

    private enum Kind: String, CaseIterable { case float32, float16, int8 }

    /// Median operations a second.
    private func rate(_ kind: Kind, _ m: Int, _ n: Int, _ k: Int) -> Double {
        let pool = BufferPool()
        let b = pool.zeros(n * k), c = pool.floats(m * n)
        let (packed, call): (Buffer, (Buffer) -> Void)
        switch kind {
        case .float32:
            let a = pool.zeros(m * k)
            packed = pool.allocate(byteCount: hssl_gemm_f32_packed_size(n, k))
            hssl_gemm_f32_pack(n, k, b.floats, 1, k, packed.pointer)
            call = { hssl_gemm_f32(m, n, k, a.floats, k, 1, $0.pointer, c.floats, n, false, nil) }
        case .float16:
            let a = pool.zeros(m * k)
            packed = pool.allocate(byteCount: hssl_gemm_f16_packed_size(n, k))
            hssl_gemm_f16_pack(n, k, b.halves, 1, k, packed.pointer)
            call = { hssl_gemm_f16(m, n, k, a.floats, k, 1, $0.pointer, c.floats, n, false, nil) }
        case .int8:
            let leading = (k + 3) / 4 * 4
            let a = pool.zeros(m * leading / 4 + 16), scale = pool.zeros(max(m, n))
            packed = pool.allocate(byteCount: hssl_gemm_u8s8_packed_size(n, k))
            hssl_gemm_u8s8_pack(
                n, k, b.pointer.assumingMemoryBound(to: Int8.self), 1, k, UInt8(HSSL_SYMMETRIC_ZERO), packed.pointer)
            call =
                {
                    hssl_gemm_u8s8_f32(
                        m, n, k, a.bytes, leading, scale.floats, $0.pointer, scale.floats, c.floats, n, false, nil)
                }
        }
        let work = 2.0 * Double(m) * Double(n) * Double(k)
        call(packed)
        let first = ContinuousClock.now
        call(packed)
        let calls = max(1, Int(2e-3 / max(PretrainBenchmark.seconds(ContinuousClock.now - first), 1e-9)))
        var rates: [Double] = []
        for _ in 0..<repeats {
            let start = ContinuousClock.now
            for _ in 0..<calls { call(packed) }
            rates.append(work * Double(calls) / max(PretrainBenchmark.seconds(ContinuousClock.now - start), 1e-9))
        }
        return rates.sorted()[rates.count / 2]
    }
}
