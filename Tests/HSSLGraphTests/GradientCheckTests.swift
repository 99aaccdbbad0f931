import CSupport
import HSSLGraph
import XCTest

@testable import HSSLGradients

/// Every operation against its definition: forward values, and backward rules against central differences, on every
/// instruction set.
final class GradientCheckTests: XCTestCase {
    override func setUp() { XCTAssertEqual(hssl_initialize(nil, 0), 0) }

    func testEveryOperationHasACase() {
        let covered = Set(GradientCases.all().map(\.kind))
        let missing = HSSLGraph.Operation.Kind.allCases.filter { !covered.contains($0) }
        XCTAssertEqual(missing, [], "operations without a gradient check: add cases to GradientCases")
    }

    func testForwardValuesAndGradients() {
        let selected = hssl_isa_selected()
        defer { _ = hssl_isa_select(selected) }
        for (place, check) in GradientCases.all().enumerated() { verify(check, seed: UInt64(place)) }
    }

    /// Values that feed several operations: their gradients add up, and shared memory is not overwritten.
    func testGradientsOfSharedValues() {
        let selected = hssl_isa_selected()
        defer { _ = hssl_isa_select(selected) }
        for (place, check) in SharedValueCases.all().enumerated() { verify(check, seed: UInt64(1000 + place)) }
    }

    private func verify(_ check: GradientCase, seed: UInt64) {
        let values = check.values(seed: seed)
        let expected = check.reference(values)
        let coefficients = randomValues(expected.count, seed, 99)
        let differences = check.differences(values, coefficients: coefficients)
        for isa in supportedInstructionSets() {
            XCTAssertTrue(hssl_isa_select(isa))
            let row = "\(check.kind) \(check.name) on \(String(cString: hssl_isa_name(isa)))"
            let result = check.run(values, coefficients: coefficients)
            XCTAssertTrue(result.kinds.contains(check.kind), "\(row): recorded \(result.kinds)")
            XCTAssertLessThanOrEqual(
                GradientCase.relativeError(result.output, expected), check.tolerance, "forward of \(row)")
            for operand in values.indices {
                if check.constantOperands.contains(operand) {
                    XCTAssertNil(result.gradients[operand], "\(row): operand \(operand) is data")
                } else if let gradient = result.gradients[operand] {
                    XCTAssertLessThanOrEqual(
                        GradientCase.relativeError(gradient, differences[operand]), check.tolerance,
                        "gradient \(operand) of \(row)")
                } else {
                    XCTFail("\(row): operand \(operand) got no gradient")
                }
            }
        }
    }

    /// Activations kept as binary16 (11 bits) serve the same rules.
    func testGradientsFromHalfActivations() {
        let kinds: Set<HSSLGraph.Operation.Kind> = [
            .layerNorm, .groupNorm, .unary, .attention, .depthwiseConv, .scaleChannels, .linear]
        var rounded: Set<HSSLGraph.Operation.Kind> = []
        for (place, check) in GradientCases.all().enumerated() where kinds.contains(check.kind) {
            // One channel is its own mean: what is divided by √ε is rounding.
            if check.kind == .layerNorm, check.operands[1] == [1] { continue }
            let values = check.values(seed: UInt64(place))
            let coefficients = randomValues(check.reference(values).count, UInt64(place), 99)
            let differences = check.differences(values, coefficients: coefficients)
            let exact = check.run(values, coefficients: coefficients).gradients
            let reduced = check.run(values, coefficients: coefficients, precision: .float16).gradients
            for operand in values.indices {
                guard let gradient = reduced[operand] else {
                    XCTFail("\(check.kind) \(check.name): operand \(operand) got no gradient")
                    continue
                }
                XCTAssertLessThanOrEqual(
                    GradientCase.relativeError(gradient, differences[operand]), 5e-3,
                    "\(check.kind) \(check.name): operand \(operand)")
                if gradient != exact[operand] { rounded.insert(check.kind) }
            }
        }
        XCTAssertEqual(rounded, kinds, "operations whose activations are rounded")
    }

    /// A frozen operand gets no gradient, and the others' do not change.
    func testFrozenOperandsGetNoGradient() {
        for (place, check) in GradientCases.all().enumerated() where check.operands.count > 1 {
            let values = check.values(seed: UInt64(place))
            let coefficients = randomValues(check.reference(values).count, UInt64(place), 99)
            let whole = check.run(values, coefficients: coefficients).gradients
            for frozen in values.indices {
                let gradients = check.run(values, coefficients: coefficients, frozen: [frozen]).gradients
                for operand in values.indices {
                    XCTAssertEqual(gradients[operand], operand == frozen ? nil : whole[operand],
                                   "\(check.kind) \(check.name): gradient of operand \(operand) with \(frozen) frozen")
                }
            }
        }
    }

    func testInferenceRecordsNothing() {
        for (place, check) in GradientCases.all().enumerated() {
            let values = check.values(seed: UInt64(place))
            let tape = Tape(mode: .inference, pool: BufferPool())
            let output = check.apply(
                tape, values.indices.map { tape.constant(values[$0].map { Float($0) }, shape: check.operands[$0]) })
            XCTAssertTrue(tape.nodes.isEmpty, "\(check.kind) \(check.name)")
            XCTAssertLessThanOrEqual(
                GradientCase.relativeError(output.array(), check.reference(values)), check.tolerance,
                "\(check.kind) \(check.name)")
        }
    }

    func testShapesAreTheSameInEveryMode() {
        for (place, check) in GradientCases.all().enumerated() {
            let values = check.values(seed: UInt64(place))
            let shapes = [Tape.Mode.shapes, .inference, .training].map { mode in
                let tape = Tape(mode: mode, pool: BufferPool())
                return check.apply(
                    tape,
                    values.indices.map { tape.constant(values[$0].map { Float($0) }, shape: check.operands[$0]) }
                ).shape
            }
            XCTAssertEqual(shapes[0], shapes[1], "\(check.kind) \(check.name)")
            XCTAssertEqual(shapes[0], shapes[2], "\(check.kind) \(check.name)")
        }
    }

    func testADetachedValueStopsTheGradient() {
        let check = GradientCase(
            kind: .residual, name: "detached", operands: [[2, 3]],
            apply: { $1[0].adding(branch: $1[0].gelu().detached()) },
            reference: { v in v[0].map { $0 + Reference.gelu($0) } })
        let coefficients = randomValues(6, 4)
        XCTAssertEqual(
            check.run(check.values(seed: 3), coefficients: coefficients).gradients[0], coefficients.map { Float($0) })
    }

    /// Gradients add up over losses and over backward passes until they are cleared.
    func testGradientsAccumulateUntilCleared() {
        let pool = BufferPool()
        let x = Parameter(name: "x", shape: [1, 3], initializer: .zeros)
        x.allocate(from: pool)
        for _ in 0..<2 {
            let tape = Tape(mode: .training, pool: pool)
            let value = tape.parameter(x)
            let losses = [[2, 2, 2], [1, 0, -1]].map {
                value.linear(weight: tape.constant($0, shape: [1, 3]), bias: nil, role: .full)
            }
            BackwardPass.run(from: losses)
        }
        XCTAssertEqual(x.gradient.map { Array(UnsafeBufferPointer(start: $0, count: 3)) }, [6, 4, 2])
        x.clearGradient()
        XCTAssertNil(x.gradient)
    }
}

/// Graphs in which one value feeds several operations.
enum SharedValueCases {
    static func all() -> [GradientCase] {
        [block(), activations(), masking(), gathering(), positions(), computedWeight(), parameter()]
    }

    private static func block() -> GradientCase {
        GradientCase(
            kind: .residual, name: "pre-norm block", operands: [[2, 3, 4], [4], [4], [4, 4], [4]],
            apply: { _, v in
                v[0].adding(branch: v[0].layerNorm(weight: v[1], bias: v[2], epsilon: 1e-6).linear(
                    weight: v[3], bias: v[4], activation: .gelu))
            },
            reference: { v in
                let branch = Reference.linear(
                    Reference.layerNorm(v[0], v[1], v[2], epsilon: 1e-6), v[3], v[4], inputs: 4).map(Reference.gelu)
                return zip(v[0], branch).map { $0 + $1 }
            })
    }

    /// The residual hands one buffer to both operands; GELU's rule works in place where it may.
    private static func activations() -> GradientCase {
        GradientCase(
            kind: .residual, name: "both operands are activations of one value", operands: [[2, 8]],
            apply: { _, v in
                let a = v[0].gelu()
                return a.gelu().adding(branch: a.gelu().gelu())
            },
            reference: { v in
                v[0].map {
                    let b = Reference.gelu(Reference.gelu($0))
                    return b + Reference.gelu(b)
                }
            })
    }

    private static func masking() -> GradientCase {
        GradientCase(
            kind: .maskTokens, name: "masking in place behind a residual", operands: [[1, 3, 2], [1, 2]],
            apply: { _, v in
                let a = v[0].gelu()
                return a.masked([0, 1, 0], token: v[1]).adding(branch: a.masked([1, 0, 0], token: v[1]))
            },
            reference: { v in
                let a = v[0].map(Reference.gelu)
                return a.indices.map { i -> Double in
                    let token = v[1][i % 2]
                    let first = i / 2 == 1 ? token : a[i]
                    let second = i / 2 == 0 ? token : a[i]
                    return first + second
                }
            })
    }

    /// Rules that add in place (gather, drop) meet a gradient that a residual shares.
    private static func gathering() -> GradientCase {
        GradientCase(
            kind: .gatherRows, name: "gather, drop and residual of one value", operands: [[1, 4, 2]],
            apply: { _, v in
                let a = v[0].gelu()
                let whole = a.adding(branch: a.gelu())
                return whole.droppingTokens(2).adding(branch: a.gatheringRows([0, 3]).reshaped([1, 2, 2])).adding(
                    branch: a.droppingTokens(2))
            },
            reference: { v in
                let a = v[0].map(Reference.gelu)
                let whole = a.map { $0 + Reference.gelu($0) }
                return (0..<4).map { i -> Double in
                    let gathered = a[i < 2 ? i : i + 4]
                    return whole[4 + i] + gathered + a[4 + i]
                }
            })
    }

    private static func positions() -> GradientCase {
        GradientCase(
            kind: .addBroadcast, name: "positions used by two streams", operands: [[2, 2, 3], [1, 2, 3]],
            apply: { _, v in v[0].addingBroadcast(v[1]).gelu().adding(branch: v[0].gelu().addingBroadcast(v[1])) },
            reference: { v in v[0].indices.map { Reference.gelu(v[0][$0] + v[1][$0 % 6]) + Reference.gelu(v[0][$0])
            + v[1][$0 % 6] } })
    }

    private static func computedWeight() -> GradientCase {
        GradientCase(
            kind: .linear, name: "a computed weight used twice", operands: [[2, 3], [3, 3], [3, 3]],
            apply: { _, v in
                let weight = v[2].l2Normalized()
                return v[0].linear(weight: weight, bias: nil).linear(weight: v[1], bias: nil).linear(
                    weight: weight, bias: nil)
            },
            reference: { v in
                let weight = Reference.l2Normalize(v[2], width: 3)
                return Reference.linear(
                    Reference.linear(Reference.linear(v[0], weight, nil, inputs: 3), v[1], nil, inputs: 3), weight, nil,
                    inputs: 3)
            })
    }

    private static func parameter() -> GradientCase {
        GradientCase(
            kind: .linear, name: "a parameter used twice", operands: [[2, 3], [3, 3]],
            apply: { _, v in v[0].linear(weight: v[1], bias: nil, activation: .gelu).linear(weight: v[1], bias: nil)
            },
            reference: { v in
                Reference.linear(
                    Reference.linear(v[0], v[1], nil, inputs: 3).map(Reference.gelu), v[1], nil, inputs: 3)
            })
    }
}
