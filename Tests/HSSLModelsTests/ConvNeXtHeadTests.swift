import CSupport
import HSSLGraph
import XCTest

@testable import HSSLModels

final class ConvNeXtHeadTests: XCTestCase {
    override func setUp() { XCTAssertEqual(hssl_initialize(nil, 0), 0) }

    private let width = 20

    private func make(depth: Int, kernel: Int = 7, firstShortcut: Bool = false) -> (head: ConvNeXtHead, parameters: ParameterSet) {
        let set = ParameterSet()
        let head = ConvNeXtHead(ParameterScope(set), width: width, depth: depth, kernel: kernel, firstShortcut: firstShortcut)
        set.allocate(from: BufferPool())
        // Larger than the initial weights, so that branches matter beside shortcuts.
        for (place, parameter) in set.all.enumerated() {
            var random = CounterRandom(seed: 9, stream: UInt64(place))
            let deviation: Float = parameter.shape.count > 1 ? 0.2 : 0.5
            let mean: Float = parameter.name.hasSuffix("norm.weight") ? 1 : 0
            for i in 0..<parameter.count { parameter.values[i] = mean + deviation * random.normal() }
        }
        return (head, set)
    }

    private func tokens(_ tape: Tape, _ batch: Int, _ grid: Grid) -> Tensor {
        var random = CounterRandom(seed: 4, stream: 2)
        return tape.constant((0..<batch * (1 + grid.count) * width).map { _ in random.normal() }, shape: [batch, 1 + grid.count, width])
    }

    func testNamesAndShapesAreThoseOfTheCheckpoint() {
        let D = width
        var expected: [String: [Int]] = ["norm.weight": [D], "norm.bias": [D]]
        for block in 0..<3 {
            let layers: [(String, [Int])] = [
                ("dwconv.weight", [D, 1, 5, 5]), ("dwconv.bias", [D]), ("norm.weight", [D]), ("norm.bias", [D]), ("pwconv1.weight", [4 * D, D]),
                ("pwconv1.bias", [4 * D]), ("pwconv2.weight", [D, 4 * D]), ("pwconv2.bias", [D]),
            ]
            for (name, shape) in layers { expected["blocks.\(block).\(name)"] = shape }
        }
        XCTAssertEqual(Dictionary(uniqueKeysWithValues: make(depth: 3, kernel: 5).parameters.all.map { ($0.name, $0.shape) }), expected)
    }

    /// The last block's second linear map on the grid mean is the mean of the block: equal to rounding, with and without dropped branches.
    func testTheCheaperCLSEqualsThePlainOne() {
        let drop = StochasticDepth(rate: 0.9, blocks: 8, seed: 3, step: 2, samples: Array(0..<5))
        for depth in 0...3 {
            for kernel in [1, 3, 7] {
                for firstShortcut in [false, true] {
                    for grid in [Grid(height: 1, width: 1), Grid(height: 3, width: 5)] {
                        for stochasticDepth in [nil, drop] {
                            let head = make(depth: depth, kernel: kernel, firstShortcut: firstShortcut).head
                            let tape = Tape(mode: .inference, pool: BufferPool())
                            let x = tokens(tape, 5, grid)
                            let cheap = head.cls(x, grid: grid, stochasticDepth: stochasticDepth, firstBlock: 4)
                            let plain = head.plainCLS(x, grid: grid, stochasticDepth: stochasticDepth, firstBlock: 4)
                            XCTAssertEqual(cheap.shape, [5, width])
                            for (a, b) in zip(cheap.array(), plain.array()) { XCTAssertEqual(a, b, accuracy: 2e-4, "depth \(depth) kernel \(kernel) shortcut \(firstShortcut)") }
                        }
                    }
                }
            }
        }
    }

    /// With the last linear map at zero a block is its shortcut: the input mean where there is one, a constant where there is none.
    func testTheFirstShortcutIsOptional() throws {
        for firstShortcut in [false, true] {
            let (head, parameters) = make(depth: 1, firstShortcut: firstShortcut)
            for name in ["blocks.0.pwconv2.weight", "blocks.0.pwconv2.bias"] {
                let parameter = try XCTUnwrap(parameters[name])
                for i in 0..<parameter.count { parameter.values[i] = 0 }
            }
            let tape = Tape(mode: .inference, pool: BufferPool())
            let grid = Grid(height: 2, width: 3)
            let x = tokens(tape, 2, grid)
            let cls = head.plainCLS(x, grid: grid, stochasticDepth: nil, firstBlock: 0).array()
            let bias = try XCTUnwrap(parameters["norm.bias"])
            let constant = (0..<2 * width).map { bias.values[$0 % width] }
            XCTAssertEqual(cls == constant, !firstShortcut)
        }
    }

    /// CLS of the base does not enter the head.
    func testTheHeadDropsTheBaseCLS() {
        let head = make(depth: 2).head
        let tape = Tape(mode: .inference, pool: BufferPool())
        let grid = Grid(height: 2, width: 2)
        let x = tokens(tape, 1, grid)
        let before = head.cls(x, grid: grid, stochasticDepth: nil, firstBlock: 0).array()
        for i in 0..<width { x.values[i] += 5 }
        XCTAssertEqual(head.cls(x, grid: grid, stochasticDepth: nil, firstBlock: 0).array(), before)
        for i in 0..<width { x.values[width + i] += Float(i) }
        XCTAssertNotEqual(head.cls(x, grid: grid, stochasticDepth: nil, firstBlock: 0).array(), before)
    }
}
