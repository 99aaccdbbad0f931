import CSupport
import HSSLGraph
import XCTest

@testable import HSSLModels
@testable import HSSLRuntime

/// Every base family runs as its record says, in every precision.
final class FamilyTests: XCTestCase {
    override func setUp() {
        super.setUp()
        XCTAssertEqual(hssl_initialize(nil, 0), 0)
        hssl_set_threads(1)
    }

    /// Small, with what is odd about each: padded and shifted windows, grids that halve with a rest, widths that are no
    /// multiples of vectors.
    static let configurations: [(name: String, configuration: any BaseConfiguration)] = [
        ("vit", VisionTransformer.Configuration(imageSize: 20, patchSize: 5, embedDim: 36, depth: 2, numHeads: 3)),
        ("vit with layer scale, registers and gates", dinov2),
        ("vit with rotary positions", dinov3),
        (
            "swin",
            Swin.Configuration(
                imageSize: 32, patchSize: 2, embedDim: 24, depths: [2, 2], numHeads: [2, 4], windowSize: 4)
        ),
        (
            "swin padded",
            Swin.Configuration(
                imageSize: 40, patchSize: 2, embedDim: 18, depths: [2, 2], numHeads: [3, 2], windowSize: 7)
        ),
        ("swin padded first", swinPaddedFirst),
        (
            "convnext",
            ConvNeXt.Configuration(imageSize: 24, patchSize: 2, depths: [2, 1], dims: [20, 36], kernelSize: 5)
        ),
        ("convnext wide", ConvNeXt.Configuration(imageSize: 32, patchSize: 4, depths: [1, 2], dims: [48, 96])),
        ("resnet small", ResNet.Configuration(imageSize: 18, stem: .small, planes: [8, 16], layers: [1, 2])),
        (
            "resnet without norms",
            ResNet.Configuration(imageSize: 45, stem: .imagenet, planes: [8, 12], layers: [1, 2], norm: .none)
        ),
        ("resnet", ResNet.Configuration(imageSize: 45, stem: .imagenet, planes: [8, 12, 16], layers: [1, 1, 2])),
    ]

    private static var dinov2: VisionTransformer.Configuration {
        var sizes = VisionTransformer.Configuration(
            imageSize: 20, patchSize: 5, embedDim: 36, depth: 2, numHeads: 3)
        (sizes.layerScale, sizes.registerTokens, sizes.positionsCoverClass) = (true, 3, false)
        (sizes.activation, sizes.mlpRatio) = (.swiglu, 2.5)
        return sizes
    }

    private static var swinPaddedFirst: Swin.Configuration {
        var sizes = Swin.Configuration(
            imageSize: 40, patchSize: 2, embedDim: 18, depths: [2, 2], numHeads: [3, 2], windowSize: 7)
        sizes.padsFirst = true
        return sizes
    }

    private static var dinov3: VisionTransformer.Configuration {
        var sizes = VisionTransformer.Configuration(
            imageSize: 20, patchSize: 5, embedDim: 48, depth: 2, numHeads: 3)
        (sizes.layerScale, sizes.registerTokens, sizes.positionsCoverClass) = (true, 2, false)
        (sizes.ropeTemperature, sizes.normEpsilon) = (100, 1e-5)
        return sizes
    }

    private func forEachFamily(_ body: (String, RandomModel) throws -> Void) throws {
        for (name, configuration) in Self.configurations { try body(name, RandomModel(configuration)) }
    }

    func testFloatPrecisionsEqualTheTape() throws {
        try forEachFamily { name, model in
            let images = model.images(3)
            for (precision, bound) in [(Precision.float32, Float(1e-5)), (.float16, 2e-4)] {
                let session = try model.session(precision: precision)
                for features in Features.allCases {
                    let error = relativeError(
                        try session.rows(images, features),
                        model.expected(features, images, normalize: false, precision: precision))
                    XCTAssertLessThan(error, bound, "\(name) \(precision) \(features)")
                }
            }
        }
    }

    func testInt8StaysNearFloat32() throws {
        try forEachFamily { name, model in
            let images = model.images(4)
            let reference = try model.session(), codes = try model.session(precision: .int8)
            for features in [Features.cls, .mean, .patch] {
                let (expected, found) = (try reference.rows(images, features), try codes.rows(images, features))
                XCTAssertGreaterThanOrEqual(cosine(found, expected), 0.999, "\(name) \(features)")
                XCTAssertNotEqual(found, expected)
            }
        }
    }

    func testBitsDependOnNeitherBatchNorPositionNorThreads() throws {
        try forEachFamily { name, model in
            let images = model.images(3), size = images.count / 3
            for precision in Precision.allCases {
                for features in [Features.clsMean, .patch] {
                    let single = try model.session(precision: precision)
                    let alone = try (0..<3).map {
                        try single.rows(Array(images[$0 * size..<($0 + 1) * size]), features)
                    }
                    for threads in [1, 2, 3] {
                        let session = try model.session(precision: precision, threads: threads)
                        for count in [1, 3] {
                            let found = try session.rows(Array(images[(3 - count) * size..<3 * size]), features)
                            XCTAssertEqual(
                                found, alone[(3 - count)...].flatMap { $0 },
                                "\(name) \(precision) \(features), \(threads) threads, batch \(count)")
                        }
                    }
                }
            }
        }
    }

    /// A grid with more windows than are multiplied at a time, whose later ones take the place of the first.
    func testManyWindowsTakeTurns() throws {
        let model = try RandomModel(
            ResNet.Configuration(imageSize: 96, stem: .small, planes: [16, 24], layers: [1, 1]))
        let images = model.images(1)
        for (precision, bound) in [(Precision.float32, Float(1e-5)), (.float16, 2e-4), (.int8, 4e-2)] {
            let found = try [1, 2, 3].map { try model.session(precision: precision, threads: $0).rows(images, .patch) }
            XCTAssertEqual(found[0], found[1])
            XCTAssertEqual(found[0], found[2])
            let expected = model.expected(
                .patch, images, normalize: false, precision: precision == .int8 ? .float32 : precision)
            XCTAssertLessThan(relativeError(found[0], expected), bound, "\(precision)")
        }
    }

    func testInstructionSetsAgree() throws {
        try forEachFamily { name, model in
            let images = model.images(2)
            for precision in Precision.allCases {
                let scalar = try withISA(HSSL_ISA_SCALAR) {
                    try model.session(precision: precision).rows(images, .patch)
                }
                for isa in supportedISAs {
                    let found = try withISA(isa) { try model.session(precision: precision).rows(images, .patch) }
                    XCTAssertGreaterThanOrEqual(
                        cosine(found, scalar), precision == .int8 ? 0.9999 : 0.999999,
                        "\(name) \(precision) on \(String(cString: hssl_isa_name(isa)))")
                }
            }
        }
    }

    /// Group norms hold a sample's channels on the stack: more are refused where sizes are read.
    func testMoreChannelsThanAGroupNormTakesAreRefused() {
        func sizes(_ planes: Int) -> ResNet.Configuration {
            ResNet.Configuration(imageSize: 18, stem: .small, planes: [planes], layers: [1])
        }
        XCTAssertNoThrow(try sizes(2048).validate())
        XCTAssertThrowsError(try sizes(2049).validate()) {
            XCTAssertEqual("\($0)", "planes 2049 is not in 1 … 2048")
        }
    }

    func testFilesGiveTheFeaturesOfTheirParameters() throws {
        let path = NSTemporaryDirectory() + "hssl-family-\(ProcessInfo.processInfo.processIdentifier).safetensors"
        defer { try? FileManager.default.removeItem(atPath: path) }
        try forEachFamily { name, model in
            let images = model.images(2)
            for precision in Precision.allCases {
                try model.write(path, precision)
                let bound = try Plan.memoryBound(ModelFile(path: path), threads: 1, batch: 2)
                let session = try Session(
                    model: Model(path: path, memoryLimit: bound, threads: 1, batch: 2), threads: 1)
                XCTAssertLessThan(session.model.byteCount + session.byteCount, bound)
                let found = try session.rows(images, .patch)
                let expected = try model.session(precision: precision).rows(images, .patch)
                if precision == .float16 {
                    XCTAssertGreaterThan(cosine(found, expected), 0.99999, name)
                } else {
                    XCTAssertEqual(found, expected, "\(name) \(precision)")
                }
            }
        }
    }
}
