import CSupport
import HSSLGraph
import XCTest

@testable import HSSLGradients

/// What a step holds: the pool gets back everything but the parameters, and serves the next step from what it has.
final class MemoryTests: XCTestCase {
    override func setUp() { XCTAssertEqual(hssl_initialize(nil, 0), 0) }

    private struct Net {
        let set = ParameterSet()
        let weights: [Parameter]
        let norm: [Parameter]

        init(pool: BufferPool) {
            let scope = ParameterScope(set)
            weights = (0..<4).map { scope.declare("w\($0)", [24, 24], .truncatedNormal(standardDeviation: 0.2)) }
            norm = [scope.declare("norm.weight", [24], .ones), scope.declare("norm.bias", [24], .zeros)]
            set.allocate(from: pool)
            set.initialize(seed: 1)
        }

        func step(_ precision: Precision, pool: BufferPool) {
            let tape = Tape(mode: .training, precision: precision, pool: pool)
            var x = tape.constant(randomValues(5 * 7 * 24, 3).map { Float($0) }, shape: [5, 7, 24])
            for weight in weights {
                let y = x.layerNorm(weight: tape.parameter(norm[0]), bias: tape.parameter(norm[1]), epsilon: 1e-6)
                x = x.adding(
                    branch: y.linear(weight: tape.parameter(weight), bias: nil, activation: .gelu).gelu(),
                    scale: [1, 0, 1, 1, 0])
            }
            let logits = x.meanOverTokens().l2Normalized().linear(
                weight: tape.parameter(weights[0]).l2Normalized(), bias: nil)
            var rowLosses: [Float] = []
            let targets = tape.constant([Float](repeating: 1 / 24, count: 5 * 24), shape: [5, 24])
            BackwardPass.run(
                from: [logits.softCrossEntropy(
                    targets: targets, weights: [1, 1, 1, 1, 1], temperature: 0.1, rowLosses: &rowLosses)])
        }
    }

    func testAStepReturnsItsMemoryAndTheNextReservesNothing() {
        for precision in Precision.allCases {
            let pool = BufferPool()
            let net = Net(pool: pool)
            let parameters = pool.bytesInUse
            var reserved = 0
            for step in 0..<3 {
                net.step(precision, pool: pool)
                XCTAssertTrue(net.set.all.allSatisfy { $0.gradient != nil }, "every parameter is used")
                XCTAssertGreaterThan(pool.bytesInUse, parameters, "gradients are held until they are cleared")
                net.set.clearGradients()
                for parameter in net.set.all { parameter.valuesDidChange() }
                XCTAssertEqual(pool.bytesInUse, parameters, "\(precision), step \(step)")
                if step == 0 { reserved = pool.bytesReserved }
                XCTAssertEqual(pool.bytesReserved, reserved, "\(precision), step \(step)")
            }
            XCTAssertGreaterThan(pool.peakBytes, parameters)
            XCTAssertLessThanOrEqual(pool.peakBytes, reserved)
            pool.trim()
            XCTAssertEqual(pool.bytesReserved, parameters)
        }
    }

    /// A node is freed after its rule, so the backward pass of a chain needs a constant amount beside the activations.
    func testTheBackwardPassFreesTheActivationsOnTheWay() {
        func peak(depth: Int) -> Int {
            let pool = BufferPool()
            let parameter = Parameter(name: "x", shape: [64, 64], initializer: .ones)
            parameter.allocate(from: pool)
            let tape = Tape(mode: .training, pool: pool)
            var x = tape.parameter(parameter)
            for _ in 0..<depth { x = x.gelu() }
            let loss = x.reshaped([1, 4096]).linear(
                weight: tape.constant([Float](repeating: 1, count: 4096), shape: [1, 4096]), bias: nil, role: .full)
            x = loss
            let forward = pool.bytesInUse
            BackwardPass.run(from: [loss])
            return pool.peakBytes - forward
        }
        XCTAssertEqual(peak(depth: 4), peak(depth: 24))
    }

    /// Attention's qkv and output, preactivations and inputs of norms, GELU and convolutions: half the memory under the
    /// reduced policies.
    func testReducedPoliciesKeepHalfOfTheActivations() {
        func kept(_ precision: Precision) -> Int {
            let pool = BufferPool()
            let set = ParameterSet()
            let scope = ParameterScope(set)
            let (weight, bias) = (scope.declare("w", [64], .ones), scope.declare("b", [64], .zeros))
            let (kernel, shift) = (scope.declare("k", [64, 1, 3, 3], .ones), scope.declare("s", [64], .zeros))
            let widen = scope.declare("qkv", [192, 64], .truncatedNormal(standardDeviation: 0.2))
            set.allocate(from: pool)
            set.initialize(seed: 1)
            let before = pool.bytesInUse
            let tape = Tape(mode: .training, precision: precision, pool: pool)
            func build() -> Tensor {
                let x = tape.constant([Float](repeating: 1, count: 4 * 16 * 64), shape: [4, 4, 4, 64])
                let grid = x.depthwiseConv(weight: tape.parameter(kernel), bias: tape.parameter(shift)).gelu()
                let tokens = grid.reshaped([4, 16, 64]).layerNorm(
                    weight: tape.parameter(weight), bias: tape.parameter(bias), epsilon: 1e-6)
                return tokens.linear(weight: tape.parameter(widen), bias: nil, role: .full).attention(heads: 2)
                    .meanOverTokens()
            }
            return withExtendedLifetime(build()) { pool.bytesInUse - before }
        }
        let unit = 4 * 16 * 64
        // In units: the convolution's input and output, GELU's output, qkv (3), out; and in full the linear layer's
        // input, as its role says.
        XCTAssertGreaterThan(kept(.float32), 7 * 4 * unit)
        for precision in [Precision.float16, .int8] {
            XCTAssertLessThan(kept(precision), kept(.float32) - (7 - 1) * 2 * unit, "\(precision)")
        }
    }

    /// Logits of tokens × K are never stored: with more rows than a tile, only the rows' own gradient grows.
    func testPrototypeLogitsExistForOneTile() {
        let (count, width, tile) = (512, 8, 4 * 512)
        func peak(rows: Int) -> Int {
            let pool = BufferPool()
            let tape = Tape(mode: .training, pool: pool)
            let (x, prototypes) = (
                Parameter(name: "x", shape: [rows, width], initializer: .ones),
                Parameter(name: "w", shape: [count, width], initializer: .ones))
            for parameter in [x, prototypes] {
                parameter.allocate(from: pool)
                parameter.initialize(seed: 1)
            }
            let before = pool.bytesInUse
            var rowLosses: [[Float]] = []
            let targets = PrototypeTargets.projections(
                tape.parameter(x).detached(), prototypes: tape.parameter(prototypes).detached(),
                center: [Float](repeating: 0, count: count), temperature: 0.1)
            let streams = [PrototypeRows(
                rows: tape.parameter(x), targets: [targets], weights: [Float](repeating: 1, count: rows))]
            BackwardPass.run(
                from: [tape.parameter(prototypes).prototypeCrossEntropy(
                    of: streams, temperature: 0.1, rowLosses: &rowLosses, tileElements: tile)])
            XCTAssertEqual(rowLosses[0].count, rows)
            return pool.peakBytes - before
        }
        let more = 256
        XCTAssertLessThanOrEqual(peak(rows: 4 + more) - peak(rows: 4), 3 * more * width * 4)
        XCTAssertLessThan(3 * more * width * 4, more * count * 4 / 10, "what storing them would take")
    }

    func testBuffersAreAlignedAndReused() {
        let pool = BufferPool()
        for size in [0, 1, 63, 257, 4097, 1 << 20] {
            let buffer = pool.allocate(byteCount: size)
            XCTAssertEqual(Int(bitPattern: buffer.pointer) % 64, 0)
            XCTAssertGreaterThanOrEqual(buffer.byteCount, size)
            XCTAssertLessThanOrEqual(Double(buffer.byteCount), max(256, 1.125 * Double(size) + 64))
        }
        XCTAssertEqual(pool.bytesInUse, 0)
        let reserved = pool.bytesReserved
        XCTAssertEqual(pool.allocate(byteCount: 4097).byteCount % 64, 0)
        XCTAssertEqual(pool.bytesReserved, reserved)
    }
}
