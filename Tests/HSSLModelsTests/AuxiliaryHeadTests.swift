import CSupport
import HSSLGraph
import XCTest

@testable import HSSLModels

/// Every family of the registry: a new one is covered by being there.
final class AuxiliaryHeadTests: XCTestCase {
    override func setUp() { XCTAssertEqual(hssl_initialize(nil, 0), 0) }

    private let width = 20

    private func make(
        _ settings: HeadSettings, grid: Grid, base: Int? = nil
    ) throws -> (head: AuxiliaryHead, parameters: ParameterSet) {
        let set = ParameterSet()
        let head = try AuxiliaryHead(ParameterScope(set), over: GridShape(grid: grid, width: base ?? width), settings)
        set.allocate(from: BufferPool())
        // Larger than the initial weights, so that branches matter beside shortcuts.
        for (place, parameter) in set.all.enumerated() {
            var random = CounterRandom(seed: 9, stream: UInt64(place))
            let deviation: Float = parameter.shape.count > 1 ? 0.2 : 0.5
            let isNorm = parameter.shape.count == 1 && parameter.name.hasSuffix("weight")
            for i in 0..<parameter.count { parameter.values[i] = (isNorm ? 1 : 0) + deviation * random.normal() }
        }
        return (head, set)
    }

    private func output(_ tape: Tape, _ batch: Int, _ grid: Grid, width: Int? = nil) -> BaseOutput {
        let width = width ?? self.width
        var random = CounterRandom(seed: 4, stream: 2)
        let values = (0..<batch * (1 + grid.count) * width).map { _ in random.normal() }
        return BaseOutput(tokens: tape.constant(values, shape: [batch, 1 + grid.count, width]), prefix: 1, grid: grid)
    }

    private func settings(_ family: String, depth: Int, firstShortcut: Bool = false) -> HeadSettings {
        var settings = HeadSettings(family: family, depth: depth)
        (settings.firstShortcut, settings.numHeads, settings.kernelSize) = (firstShortcut, 2, 5)
        return settings
    }

    /// Names and shapes of the published head in a checkpoint.
    func testNamesAndShapesOfTheConvNeXtHead() throws {
        let D = width
        var expected: [String: [Int]] = ["norm.weight": [D], "norm.bias": [D]]
        for block in 0..<3 {
            let layers: [(String, [Int])] = [
                ("dwconv.weight", [D, 1, 5, 5]), ("dwconv.bias", [D]), ("norm.weight", [D]), ("norm.bias", [D]),
                ("pwconv1.weight", [4 * D, D]),
                ("pwconv1.bias", [4 * D]), ("pwconv2.weight", [D, 4 * D]), ("pwconv2.bias", [D]),
            ]
            for (name, shape) in layers { expected["blocks.\(block).\(name)"] = shape }
        }
        let parameters = try make(settings("convnext", depth: 3), grid: Grid(height: 4, width: 4)).parameters.all
        XCTAssertEqual(Dictionary(uniqueKeysWithValues: parameters.map { ($0.name, $0.shape) }), expected)
    }

    /// What the last block does on the mean of the grid alone equals the mean of what it does everywhere, with and
    /// without dropped branches.
    func testTheCheaperGlobalFeatureEqualsThePlainOne() throws {
        let drop = StochasticDepth(rate: 0.9, blocks: 8, seed: 3, step: 2, samples: Array(0..<5))
        for family in HeadFamilies.all {
            for depth in 0...3 {
                for firstShortcut in [false, true] {
                    for grid in [Grid(height: 1, width: 1), Grid(height: 5, width: 5)] {
                        for stochasticDepth in [nil, drop] {
                            let head = try make(
                                settings(family.family, depth: depth, firstShortcut: firstShortcut), grid: grid).head
                            let tape = Tape(mode: .inference, pool: BufferPool())
                            let x = output(tape, 5, grid)
                            var pass = Pass(stochasticDepth: stochasticDepth, firstBlock: 4)
                            let cheap = head.global(x.cells, pass)
                            pass.plain = true
                            let plain = head.global(x.cells, pass)
                            XCTAssertEqual(cheap.shape, [5, width])
                            for (a, b) in zip(cheap.array(), plain.array()) {
                                XCTAssertEqual(
                                    a, b, accuracy: 5e-4,
                                    "\(family.family) depth \(depth) shortcut \(firstShortcut) \(grid)")
                            }
                        }
                    }
                }
            }
        }
    }

    /// The first block's residual connections change the result, and take no parameters.
    func testTheFirstShortcutIsOptional() throws {
        let grid = Grid(height: 4, width: 4)
        for family in HeadFamilies.all {
            let tape = Tape(mode: .inference, pool: BufferPool())
            let heads = try [false, true].map {
                try make(settings(family.family, depth: 1, firstShortcut: $0), grid: grid)
            }
            XCTAssertEqual(heads[0].parameters.all.map(\.name), heads[1].parameters.all.map(\.name), family.family)
            let cells = output(tape, 2, grid).cells
            XCTAssertNotEqual(
                heads[0].head.global(cells, Pass()).array(), heads[1].head.global(cells, Pass()).array(), family.family)
        }
    }

    /// CLS of the base does not enter the head, every cell does.
    func testTheHeadSeesTheCellsAlone() throws {
        let grid = Grid(height: 2, width: 2)
        for family in HeadFamilies.all {
            let head = try make(settings(family.family, depth: 2), grid: grid).head
            let tape = Tape(mode: .inference, pool: BufferPool())
            let x = output(tape, 1, grid)
            let before = head.global(x.cells, Pass()).array()
            for i in 0..<width { x.tokens.values[i] += 5 }
            XCTAssertEqual(head.global(x.cells, Pass()).array(), before, family.family)
            for cell in 1...4 {
                for i in 0..<width { x.tokens.values[cell * width + i] += Float(i % 3) }
                XCTAssertNotEqual(head.global(x.cells, Pass()).array(), before, "\(family.family) cell \(cell)")
                for i in 0..<width { x.tokens.values[cell * width + i] -= Float(i % 3) }
            }
        }
    }

    /// A narrower head begins with a linear layer; a wide base has one by itself.
    func testWidthPutsALinearLayerBeforeTheHead() throws {
        let grid = Grid(height: 2, width: 2)
        for family in HeadFamilies.all {
            var narrow = settings(family.family, depth: 1)
            narrow.width = 8
            let (head, parameters) = try make(narrow, grid: grid)
            XCTAssertEqual(parameters["input.weight"]?.shape, [8, width], family.family)
            let tape = Tape(mode: .inference, pool: BufferPool())
            XCTAssertEqual(head.global(output(tape, 3, grid).cells, Pass()).shape, [3, 8])
            XCTAssertEqual(
                try make(settings(family.family, depth: 1), grid: grid, base: 1024).parameters["input.weight"]?.shape,
                [768, 1024])
        }
    }

    func testHeadsThatMakeNoSenseAreRefused() {
        func refusal(_ change: (inout HeadSettings) -> Void, _ family: String) -> String? {
            var settings = settings(family, depth: 1)
            change(&settings)
            do { _ = try make(settings, grid: Grid(height: 2, width: 2)) } catch { return "\(error)" }
            return nil
        }
        XCTAssertEqual(
            refusal({ $0.numHeads = 3 }, "vit"), "auxiliary.num_heads (3) does not divide the head's width (20)")
        XCTAssertEqual(
            refusal({ $0.numHeads = 3 }, "swin"), "auxiliary.num_heads (3) does not divide the head's width (20)")
        XCTAssertEqual(
            refusal({ $0.bottleneckRatio = 0.01 }, "resnet"),
            "auxiliary.bottleneck_ratio (0.01) leaves no channel of 20")
        XCTAssertNotNil(refusal({ _ in }, "transformer"))
    }
}
