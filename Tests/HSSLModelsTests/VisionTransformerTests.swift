import CSupport
import HSSLGraph
import XCTest

@testable import HSSLModels

final class VisionTransformerTests: XCTestCase {
    override func setUp() { XCTAssertEqual(hssl_initialize(nil, 0), 0) }

    private func make(
        imageSize: Int = 32, patchSize: Int = 8, embedDim: Int = 24, depth: Int = 2, heads: Int = 3,
        pretraining: Bool = false, pool: BufferPool = BufferPool()
    ) throws -> (model: any Base, parameters: ParameterSet) {
        let architecture = try ModelArchitecture(VisionTransformer.Configuration(
            imageSize: imageSize, patchSize: patchSize, embedDim: embedDim, depth: depth, numHeads: heads))
        let set = ParameterSet()
        let model = architecture.makeBase(ParameterScope(set), pretraining ? .pretraining : .deployment)
        set.allocate(from: pool)
        set.initialize(seed: 5)
        return (model, set)
    }

    private func images(_ tape: Tape, _ count: Int, _ height: Int, _ width: Int, seed: UInt64 = 1) -> Tensor {
        var random = CounterRandom(seed: seed, stream: 1)
        return tape.constant(
            (0..<count * 3 * height * width).map { _ in random.normal() }, shape: [count, 3, height, width])
    }

    /// Names and shapes of timm's `VisionTransformer` with `num_classes=0`.
    func testNamesAndShapesAreThoseOfTimm() throws {
        let D = 24
        var expected: [String: [Int]] = [
            "cls_token": [1, 1, D], "pos_embed": [1, 17, D], "patch_embed.proj.weight": [D, 3, 8, 8],
            "patch_embed.proj.bias": [D],
            "norm.weight": [D], "norm.bias": [D],
        ]
        for block in 0..<2 {
            let layers: [(String, [Int])] = [
                ("norm1.weight", [D]), ("norm1.bias", [D]), ("attn.qkv.weight", [3 * D, D]),
                ("attn.qkv.bias", [3 * D]), ("attn.proj.weight", [D, D]),
                ("attn.proj.bias", [D]), ("norm2.weight", [D]), ("norm2.bias", [D]), ("mlp.fc1.weight", [4 * D, D]),
                ("mlp.fc1.bias", [4 * D]),
                ("mlp.fc2.weight", [D, 4 * D]), ("mlp.fc2.bias", [D]),
            ]
            for (name, shape) in layers { expected["blocks.\(block).\(name)"] = shape }
        }
        let deployed = try make().parameters.all
        XCTAssertEqual(Dictionary(uniqueKeysWithValues: deployed.map { ($0.name, $0.shape) }), expected)
        expected["mask_token"] = [1, D]
        let pretrained = try make(pretraining: true).parameters.all
        XCTAssertEqual(Dictionary(uniqueKeysWithValues: pretrained.map { ($0.name, $0.shape) }), expected)
    }

    /// timm's parameter counts with `num_classes=0` at 224/16.
    func testNamedArchitecturesHaveTheKnownParameterCounts() throws {
        for (name, count) in [
            ("vit_tiny", 5_524_416), ("vit_small", 21_665_664), ("vit_base", 85_798_656), ("vit_large", 303_301_632)] {
            let set = ParameterSet()
            _ = try ModelArchitecture(named: name, imageSize: 224, patchSize: 16).makeBase(
                ParameterScope(set), .deployment)
            XCTAssertEqual(set.count, count, name)
        }
    }

    func testInitialValuesFollowTheStatedDistributions() throws {
        let parameters = try make(embedDim: 96, pretraining: true).parameters
        func statistics(_ name: String) throws -> (mean: Double, deviation: Double, largest: Double) {
            let parameter = try XCTUnwrap(parameters[name])
            let values = (0..<parameter.count).map { Double(parameter.values[$0]) }
            let mean = values.reduce(0, +) / Double(values.count)
            return (
                mean, (values.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(values.count)).squareRoot(),
                values.map(abs).max() ?? 0)
        }
        for name in ["blocks.0.attn.qkv.weight", "blocks.1.mlp.fc2.weight", "pos_embed"] {
            let (mean, deviation, largest) = try statistics(name)
            XCTAssertEqual(mean, 0, accuracy: 2e-3, name)
            XCTAssertEqual(deviation, 0.02, accuracy: 2e-3, name)
            XCTAssertLessThan(largest, 0.12, name)
        }
        // Uniform ±1/√fan_in has deviation bound/√3.
        let bound = 1 / (3.0 * 64).squareRoot()
        let patch = try statistics("patch_embed.proj.weight")
        XCTAssertEqual(patch.deviation, bound / 3.0.squareRoot(), accuracy: 1e-3)
        XCTAssertLessThanOrEqual(patch.largest, bound)
        for name in ["mask_token", "blocks.0.attn.qkv.bias", "norm.bias"] {
            XCTAssertEqual(try statistics(name).largest, 0, name)
        }
        let norm = try statistics("blocks.1.norm2.weight")
        XCTAssertEqual(norm.mean, 1)
        XCTAssertEqual(norm.deviation, 0)
    }

    func testAnyImageAndPatchSize() throws {
        for (imageSize, patchSize, height, width) in [
            (28, 4, 28, 28), (28, 4, 16, 16), (32, 8, 40, 24), (16, 16, 16, 16), (16, 16, 33, 50), (9, 3, 11, 7),
            (5, 1, 2, 3)] {
            let (model, _) = try make(imageSize: imageSize, patchSize: patchSize, depth: 1)
            let tape = Tape(mode: .inference, pool: BufferPool())
            let tokens = model(images(tape, 2, height, width), mask: nil, Pass()).tokens
            let grid = model.grid(height: height, width: width)
            XCTAssertEqual(grid, Grid(height: height / patchSize, width: width / patchSize))
            XCTAssertEqual(tokens.shape, [2, 1 + grid.count, 24])
            XCTAssertTrue(tokens.array().allSatisfy(\.isFinite))
        }
    }

    /// The native grid uses the stored positions untouched; an equal count on an oblong grid is interpolated, as DINO
    /// does.
    func testPositionsAreResampledOnlyAwayFromTheNativeGrid() throws {
        let (model, _) = try make()
        func kinds(_ height: Int, _ width: Int) -> [HSSLGraph.Operation.Kind] {
            let tape = Tape(mode: .shapes, pool: BufferPool())
            _ = model(tape.input(shape: [1, 3, height, width]), mask: nil, Pass())
            return tape.nodes.map(\.operation.kind)
        }
        XCTAssertFalse(kinds(32, 32).contains(.resamplePositions))
        for (height, width) in [(16, 64), (24, 24), (40, 40)] {
            XCTAssertTrue(kinds(height, width).contains(.resamplePositions), "\(height)x\(width)")
        }
    }

    /// Samples of a batch do not see each other.
    func testABatchEqualsItsImages() throws {
        let (model, _) = try make()
        let tape = Tape(mode: .inference, pool: BufferPool())
        let batch = images(tape, 3, 32, 32)
        let together = model(batch, mask: nil, Pass()).tokens.array()
        let values = batch.array(), size = 3 * 32 * 32
        for image in 0..<3 {
            let alone = model(
                tape.constant(Array(values[image * size..<(image + 1) * size]), shape: [1, 3, 32, 32]), mask: nil,
                Pass()).tokens.array()
            XCTAssertEqual(alone, Array(together[image * alone.count..<(image + 1) * alone.count]), "image \(image)")
        }
    }

    /// A masked patch cannot be told from another image's: only its place is seen.
    func testMaskedPatchesAreNotSeen() throws {
        let (model, parameters) = try make(pretraining: true)
        let token = try XCTUnwrap(parameters["mask_token"])
        for i in 0..<token.count { token.values[i] = 0.3 }
        let tape = Tape(mode: .inference, pool: BufferPool())
        let first = images(tape, 1, 32, 32)
        // Another image in the patch of row 1, column 2 only.
        var changed = first.array()
        for c in 0..<3 { for y in 8..<16 { for x in 16..<24 { changed[(c * 32 + y) * 32 + x] += 1 } } }
        let second = tape.constant(changed, shape: [1, 3, 32, 32])
        var mask = [UInt8](repeating: 0, count: 16)
        func tokens(_ image: Tensor, _ mask: [UInt8]?) -> [Float] { model(image, mask: mask, Pass()).tokens.array() }
        XCTAssertNotEqual(tokens(first, nil), tokens(second, nil))
        XCTAssertEqual(tokens(first, mask), tokens(first, nil), "an empty mask changes nothing")
        mask[6] = 1
        XCTAssertEqual(tokens(first, mask), tokens(second, mask))
        XCTAssertNotEqual(tokens(first, mask), tokens(first, nil))
        mask[6] = 0
        mask[7] = 1
        XCTAssertNotEqual(tokens(first, mask), tokens(second, mask))
    }

    func testImpossibleArchitecturesAreRefusedInOneLine() {
        for (imageSize, patchSize, width, depth, heads, word) in [
            (30, 8, 24, 2, 3, "patch_size"), (32, 8, 25, 2, 3, "num_heads"), (32, 0, 24, 2, 3, "patch_size"),
                                                                  (0, 8, 24, 2, 3, "image_size"),
                                                                  (32, 8, 24, 0, 3, "depth"),
                                                                  (16_384, 1, 24, 2, 3, "patches"),
                                                                  (32, 8, .max, 2, 3, "embed_dim")] {
            XCTAssertThrowsError(try ModelArchitecture(VisionTransformer.Configuration(
                imageSize: imageSize, patchSize: patchSize, embedDim: width, depth: depth,
                                                       numHeads: heads))) { error in
                XCTAssertTrue("\(error)".contains(word) && !"\(error)".contains("\n"), "\(error)")
            }
        }
        XCTAssertThrowsError(try ModelArchitecture(named: "vit_huge", imageSize: 224, patchSize: 16)) {
            XCTAssertTrue("\($0)".contains("vit_small"), "\($0)")
        }
    }
}
