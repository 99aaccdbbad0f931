import CSupport
import HSSLFormats
import HSSLGraph
import XCTest

@testable import HSSLModels
@testable import HSSLRuntime

final class SessionTests: XCTestCase {
    override func setUp() {
        super.setUp()
        var message = [CChar](repeating: 0, count: 256)
        XCTAssertEqual(hssl_initialize(&message, message.count), 0)
        hssl_set_threads(1)
    }

    /// Counts and sizes come from callers: wrong ones are errors, however large.
    func testCountsThatDoNotFitAreErrors() throws {
        let model = try RandomModel()
        let images = model.images(2), session = try model.session()
        for count in [-1, 3, .max, .min] {
            XCTAssertThrowsError(try session.extract(images: images, count: count), "\(count)") { error in
                XCTAssertEqual("\(error)", "2400 values are not \(count) images of 1200")
            }
        }
        var output = [Float](repeating: 0, count: 71)
        XCTAssertThrowsError(try session.extract(images: images, count: 2, into: &output)) { error in
            XCTAssertEqual("\(error)", "71 values have no room for 2 times 36 features")
        }
        XCTAssertEqual(try session.extract(images: images, count: 0), [])
    }

    // MARK: Against the Tape

    func testFloat32EqualsTheTape() throws {
        for (width, heads, depth) in [(36, 3, 2), (64, 1, 1), (96, 3, 3)] {
            let model = try RandomModel(embedDim: width, depth: depth, numHeads: heads)
            let images = model.images(3)
            let session = try model.session()
            for features in Features.allCases {
                for normalize in [false, true] {
                    let found = try session.rows(images, features, normalize: normalize)
                    let error = relativeError(found, model.expected(features, images, normalize: normalize))
                    XCTAssertLessThan(error, 1e-5, "\(features) of width \(width), normalize \(normalize)")
                }
            }
        }
    }

    func testReducedPrecisionsEqualTheTapeInTheSamePrecision() throws {
        let model = try RandomModel(embedDim: 48, depth: 2, numHeads: 2)
        let images = model.images(2)
        // A float16 plan's GELU is the coarse one. The tape's attention is float32, an int8 plan's scores come from
        // 8-bit codes (and next to it a code of a token may round the other way).
        for (precision, bound) in [(Precision.float16, Float(2e-4)), (.int8, 2e-2)] {
            for features in Features.allCases {
                let error = relativeError(
                    try model.session(precision: precision).rows(images, features),
                    model.expected(features, images, normalize: false, precision: precision))
                XCTAssertLessThan(error, bound, "\(precision) \(features)")
            }
        }
    }

    func testReducedPrecisionsStayNearFloat32() throws {
        for seed in 1...3 as ClosedRange<UInt64> {
            let model = try RandomModel(imageSize: 28, patchSize: 4, embedDim: 96, depth: 4, numHeads: 3, seed: seed)
            let images = model.images(4, seed: seed)
            let reference = try model.session().rows(images)
            let half = try model.session(precision: .float16).rows(images)
            let byte = try model.session(precision: .int8).rows(images)
            XCTAssertGreaterThanOrEqual(cosine(half, reference), 0.9999)
            XCTAssertGreaterThanOrEqual(cosine(byte, reference), 0.999)
            XCTAssertNotEqual(byte, reference)
        }
    }

    func testInstructionSetsAgree() throws {
        let model = try RandomModel(imageSize: 28, patchSize: 4, embedDim: 96, depth: 2, numHeads: 3)
        let images = model.images(2)
        for precision in Precision.allCases {
            let scalar = try withISA(HSSL_ISA_SCALAR) { try model.session(precision: precision).rows(images, .patch) }
            for isa in supportedISAs {
                let found = try withISA(isa) { try model.session(precision: precision).rows(images, .patch) }
                XCTAssertGreaterThanOrEqual(
                    cosine(found, scalar), 0.99999, "\(precision) on \(String(cString: hssl_isa_name(isa)))")
            }
        }
    }

    /// Integer products are exact, and what lies between has the same operations in the same order everywhere; were a
    /// last bit to differ, one code would round the other way, then more in every layer after it.
    func testInt8HasTheSameBitsOnEveryInstructionSet() throws {
        let model = try RandomModel(imageSize: 28, patchSize: 4, embedDim: 104, depth: 4, numHeads: 4)
        let images = model.images(2)
        let rows = try supportedISAs.map { isa in
            try withISA(isa) {
                try [Features.patch, .cls].flatMap { try model.session(precision: .int8).rows(images, $0) }
            }
        }
        for found in rows.dropFirst() { XCTAssertEqual(found, rows[0]) }
    }

    // MARK: The same bits everywhere

    func testBitsDependOnNeitherBatchNorPositionNorThreads() throws {
        // Large enough that one image is split over threads inside its steps.
        let model = try RandomModel(imageSize: 96, patchSize: 8, embedDim: 192, depth: 2, numHeads: 3)
        let images = model.images(5)
        let size = images.count / 5
        for precision in Precision.allCases {
            for features in [Features.cls, .clsMean, .patch] {
                let single = try model.session(precision: precision, threads: 1)
                let alone = try (0..<5).map { try single.rows(Array(images[$0 * size..<($0 + 1) * size]), features) }
                for threads in [1, 2, 3, 4] {
                    let session = try model.session(precision: precision, threads: threads)
                    for count in [1, 2, 5] {
                        let found = try session.rows(Array(images[(5 - count) * size..<5 * size]), features)
                        XCTAssertEqual(
                            found, alone[(5 - count)...].flatMap { $0 },
                            "\(precision) \(features), \(threads) threads, batch \(count)")
                    }
                }
            }
        }
    }

    /// CLS features alone come without the last block's keys and values: other sums, the same features.
    func testPartialComputationGivesTheFeaturesOfTheWhole() throws {
        for width in [96, 128] {
            let model = try RandomModel(imageSize: 28, patchSize: 4, embedDim: width, depth: 3, numHeads: width / 32)
            let images = model.images(2)
            for precision in Precision.allCases {
                let session = try model.session(precision: precision)
                let both = try session.rows(images, .clsMean)
                let cls = try session.rows(images, .cls)
                for sample in 0..<2 {
                    let expected = both[sample * 2 * width..<(sample * 2 + 1) * width]
                    XCTAssertGreaterThan(
                        cosine(Array(cls[sample * width..<(sample + 1) * width]), Array(expected)),
                        precision == .int8 ? 0.9999 : 0.9999999,
                        "\(precision), width \(width)")
                }
            }
        }
    }

    func testThreadSettingOfTheProcessIsLeftAsItWas() throws {
        let model = try RandomModel()
        hssl_set_threads(2)
        defer { hssl_set_threads(1) }
        _ = try model.session(threads: 3).rows(model.images(4))
        XCTAssertEqual(hssl_get_threads(), 2)
    }

    /// Each call has its own threads and instruction set, whatever runs beside it.
    func testConcurrentModelsGiveTheBitsOfOneAtATime() throws {
        struct Work: @unchecked Sendable {
            let session: Session
            let images: [Float]
            let expected: [Float]
        }
        var works: [Work] = []
        for (index, precision) in Precision.allCases.enumerated() {
            for (threads, isa) in [
                (1, supportedISAs[0]), (2, supportedISAs[supportedISAs.count - 1]),
                (3, supportedISAs[supportedISAs.count / 2]),
            ] {
                let model = try RandomModel(
                    imageSize: 48 + 16 * index, patchSize: 8, embedDim: 96, depth: 2, numHeads: 3,
                    seed: UInt64(index + 1))
                let images = model.images(3)
                let session = try withISA(isa) { try model.session(precision: precision, threads: threads) }
                works.append(Work(session: session, images: images, expected: try session.rows(images, .patch)))
            }
        }
        let group = DispatchGroup(), wrong = Mismatches()
        for work in works {
            let thread = Thread {
                for turn in 0..<30 where (try? work.session.rows(work.images, .patch)) != work.expected {
                    wrong.add("turn \(turn), \(work.session.model.precision) with \(work.session.threads) threads")
                }
                group.leave()
            }
            group.enter()
            thread.start()
        }
        group.wait()
        XCTAssertEqual(wrong.all, [])
    }

    func testWrongSizesAreRefused() throws {
        let session = try RandomModel().session()
        let images = [Float](repeating: 0, count: 2 * session.model.imageCount)
        XCTAssertEqual(try session.extract(images: images, count: 2).count, 2 * session.model.width)
        XCTAssertEqual(try session.extract(images: images, count: 0), [])
        var output = [Float](repeating: 7, count: session.model.width)
        for (count, images) in [(3, images), (-1, images), (2, Array(images.dropLast())), (2, images)] {
            XCTAssertThrowsError(try session.extract(images: images, count: count, into: &output))
        }
        XCTAssertEqual(output, [Float](repeating: 7, count: session.model.width))
    }

    // MARK: Files

    func testFilesGiveTheFeaturesOfTheirParameters() throws {
        let model = try RandomModel(embedDim: 48, depth: 2, numHeads: 2)
        let images = model.images(3)
        let path = NSTemporaryDirectory() + "hssl-runtime-\(ProcessInfo.processInfo.processIdentifier).safetensors"
        defer { try? FileManager.default.removeItem(atPath: path) }
        for precision in Precision.allCases {
            try model.write(path, precision)
            let found = try Session(model: Model(path: path), threads: 1).rows(images, .patch)
            let expected = try model.session(precision: precision).rows(images, .patch)
            if precision == .float16 {
                // The file rounds every tensor, the policy only the weights of products.
                XCTAssertGreaterThan(cosine(found, expected), 0.99999)
            } else {
                XCTAssertEqual(found, expected, "\(precision)")
            }
        }
    }

    func testMemoryLimit() throws {
        let model = try RandomModel()
        let path = NSTemporaryDirectory() + "hssl-limit-\(ProcessInfo.processInfo.processIdentifier).safetensors"
        defer { try? FileManager.default.removeItem(atPath: path) }
        try model.write(path, .float32)
        let bound = try Plan.memoryBound(ModelFile(path: path), threads: 2, batch: 4)
        XCTAssertNoThrow(try Model(path: path, memoryLimit: bound, threads: 2, batch: 4))
        XCTAssertThrowsError(try Model(path: path, memoryLimit: bound - 1, threads: 2, batch: 4)) { error in
            XCTAssertTrue("\(error)".contains("\(bound) bytes") && "\(error)".contains(path), "\(error)")
        }
    }

    func testMemoryStaysFlatAfterTheFirstBatch() throws {
        let model = try RandomModel(imageSize: 64, patchSize: 8, embedDim: 96, depth: 2, numHeads: 3)
        let session = try model.session(precision: .int8, threads: 2)
        let images = model.images(16)
        var output = [Float](repeating: 0, count: 16 * session.model.rowCount(.patch))
        try session.extract(images: images, count: 16, features: .patch, into: &output)
        let before = hssl_peak_rss()
        for _ in 0..<20 { try session.extract(images: images, count: 16, features: .patch, into: &output) }
        XCTAssertEqual(hssl_peak_rss(), before)
    }
}

/// What threads found wrong.
private final class Mismatches: @unchecked Sendable {
    private let lock = NSLock()
    private var found: [String] = []

    var all: [String] { lock.withLock { found } }

    func add(_ mismatch: String) { lock.withLock { found.append(mismatch) } }
}
