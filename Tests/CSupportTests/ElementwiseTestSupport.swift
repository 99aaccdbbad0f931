import CSupport
import TestSupport
import XCTest

/// Floats between two inaccessible pages: a kernel that reads or writes outside its buffer ends the test process.
final class GuardedFloats {
    /// The side on which the buffer touches its guard page.
    enum Edge: CaseIterable { case start, end }

    let count: Int
    let pointer: UnsafeMutablePointer<Float>
    private let mapping: UnsafeMutableRawPointer
    private let mappedBytes: Int

    init(count: Int, edge: Edge = .end) {
        let page = 4096
        let bytes = max(count, 1) * MemoryLayout<Float>.stride
        let inner = (bytes + page - 1) / page * page
        mappedBytes = inner + 2 * page
        guard let mapping = mmap(nil, mappedBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
              mapping != MAP_FAILED else {
            fatalError("mmap of \(mappedBytes) bytes failed")
        }
        self.mapping = mapping
        mprotect(mapping, page, PROT_NONE)
        mprotect(mapping + page + inner, page, PROT_NONE)
        let offset = edge == .start ? page : page + inner - bytes
        pointer = (mapping + offset).bindMemory(to: Float.self, capacity: max(count, 1))
        self.count = count
    }

    convenience init(_ values: [Float], edge: Edge = .end) {
        self.init(count: values.count, edge: edge)
        pointer.update(from: values, count: values.count)
    }

    deinit { giveUpMapping(mapping, byteCount: mappedBytes) }

    var values: [Float] { Array(UnsafeBufferPointer(start: pointer, count: count)) }
}

/// The same of binary16.
final class GuardedHalves {
    private let words: GuardedFloats
    let count: Int
    let pointer: UnsafeMutablePointer<UInt16>

    init(count: Int, edge: GuardedFloats.Edge = .end) {
        words = GuardedFloats(count: (count + 1) / 2, edge: edge)
        self.count = count
        let all = UnsafeMutableRawPointer(words.pointer).bindMemory(to: UInt16.self, capacity: 2 * words.count)
        pointer = edge == .start ? all : all + (2 * words.count - count)
    }

    var values: [UInt16] { Array(UnsafeBufferPointer(start: pointer, count: count)) }
    var widened: [Float] {
        var floats = [Float](repeating: 0, count: count)
        hssl_convert_f16_f32(count, pointer, &floats)
        return floats
    }
}

/// Base of the kernel tests: selects instruction sets and threads, and restores both.
class KernelRowTestCase: XCTestCase {
    private var isa = HSSL_ISA_SCALAR
    private var threads: Int32 = 1

    override func setUp() {
        var message = [CChar](repeating: 0, count: 256)
        XCTAssertEqual(hssl_initialize(&message, message.count), 0)
        isa = hssl_isa_selected()
        threads = hssl_get_threads()
        hssl_set_threads(1)
    }

    override func tearDown() {
        XCTAssertTrue(hssl_isa_select(isa))
        hssl_set_threads(threads)
    }

    /// Runs `body` with every registered vector row of the family that this machine supports. At least the scalar row
    /// must be registered.
    func forEachRow(of family: String, _ body: (hssl_isa) -> Void) {
        var registered = false
        for index in 0..<hssl_kernel_count() {
            let row = hssl_kernel_at(index)
            guard String(cString: row.family) == family else { continue }
            registered = true
            guard row.isa != HSSL_ISA_SCALAR, hssl_isa_select(row.isa) else { continue }
            body(row.isa)
        }
        XCTAssertTrue(registered, "no row of \(family) is registered")
        _ = hssl_isa_select(HSSL_ISA_SCALAR)
    }

    /// `body` with the scalar row, too.
    func forEveryRow(of family: String, _ body: (hssl_isa) -> Void) {
        forEachRow(of: family, body)
        withScalarRow { body(HSSL_ISA_SCALAR) }
    }

    /// `body` with the scalar row.
    func withScalarRow<Result>(_ body: () -> Result) -> Result {
        let selected = hssl_isa_selected()
        _ = hssl_isa_select(HSSL_ISA_SCALAR)
        defer { _ = hssl_isa_select(selected) }
        return body()
    }

    private static let pool: [Float] = {
        var state: UInt64 = 0x9E37_79B9_7F4A_7C15
        return (0..<400_000).map { _ in
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return Float(Int32(truncatingIfNeeded: state >> 32)) / 2_147_483_648
        }
    }()

    /// Uniform in [−1, 1), another stretch of one fixed stream for every `seed`.
    func uniform(_ count: Int, seed: Int) -> [Float] {
        let start = seed * 7919 % 1009
        var values = [Float]()
        values.reserveCapacity(count)
        while values.count < count {
            values += KernelRowTestCase.pool[start..<min(KernelRowTestCase.pool.count, start + count - values.count)]
        }
        return values
    }

    /// max |a − b| / max(floor, max |b|); NaN differences count as infinite.
    func normalisedError(_ actual: [Float], _ expected: [Float], floor: Double) -> Double {
        guard actual.count == expected.count else { return .infinity }
        var difference = 0.0, size = floor
        for index in 0..<actual.count {
            let d = abs(Double(actual[index]) - Double(expected[index]))
            guard d.isFinite else { return .infinity }
            difference = max(difference, d)
            size = max(size, abs(Double(expected[index])))
        }
        return difference / size
    }

    func assertClose(_ actual: [Float], _ expected: [Float], _ bound: Double, floor: Double = 1e-30,
                     _ label: @autoclosure () -> String, file: StaticString = #filePath, line: UInt = #line) {
        let error = normalisedError(actual, expected, floor: floor)
        if !(error <= bound) { XCTFail("\(label()): normalised error \(error) > \(bound)", file: file, line: line) }
    }

    func assertSameBits(
        _ a: [Float], _ b: [Float], _ label: @autoclosure () -> String, file: StaticString = #filePath,
        line: UInt = #line
    ) {
        let same = a.withUnsafeBytes { x in
            b.withUnsafeBytes { y in
                guard x.count == y.count, let x0 = x.baseAddress, let y0 = y.baseAddress else {
                    return x.count == y.count
                }
                return memcmp(x0, y0, x.count) == 0
            }
        }
        if !same { XCTFail("\(label()): bits differ", file: file, line: line) }
    }

    /// The gradient of Σ weight·f(x) by central differences in float64.
    func centralDifferences(at x: [Float], weights: [Float], _ f: ([Double]) -> [Double]) -> [Float] {
        let step = 1e-5
        var point = x.map(Double.init)
        return x.indices.map { index in
            let original = point[index]
            point[index] = original + step
            let above = f(point)
            point[index] = original - step
            let below = f(point)
            point[index] = original
            var sum = 0.0
            for k in above.indices { sum += Double(weights[k]) * (above[k] - below[k]) }
            return Float(sum / (2 * step))
        }
    }

    /// Runs `compute` with one thread and with `counts` on every row, scalar included, and expects equal bits.
    func assertThreadsDoNotMatter(_ family: String, counts: [Int32] = [2], _ compute: () -> [[Float]]) {
        func check(_ isa: hssl_isa) {
            hssl_set_threads(1)
            let one = compute()
            for count in counts {
                hssl_set_threads(count)
                let several = compute()
                for (index, pair) in zip(one, several).enumerated() {
                    assertSameBits(pair.0, pair.1, "\(family), row \(isa.rawValue), \(count) threads, output \(index)")
                }
            }
            hssl_set_threads(1)
        }
        forEachRow(of: family, check)
        check(HSSL_ISA_SCALAR)
    }
}
