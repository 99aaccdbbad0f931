import CSupport
import XCTest

final class GroupNormKernelTests: KernelRowTestCase {
    private let epsilon: Float = 1e-5

    private struct Shape: CustomStringConvertible {
        var batch: Int, positions: Int, C: Int, groups: Int
        var count: Int { batch * positions * C }
        var width: Int { C / groups }
        var description: String { "[\(batch), \(positions), \(C)] in \(groups) groups" }
    }

    private struct Result {
        var y: [Float], mean: [Float], rstd: [Float], dx: [Float], dweight: [Float], dbias: [Float]
        var all: [[Float]] { [y, mean, rstd, dx, dweight, dbias] }
    }

    private func groupNorm(
        _ s: Shape, x: [Float], weight: [Float], bias: [Float], dy: [Float], edge: GuardedFloats.Edge = .end
    ) -> Result {
        let x = GuardedFloats(x, edge: edge), weight = GuardedFloats(weight, edge: edge), bias = GuardedFloats(
            bias, edge: edge)
        let dy = GuardedFloats(dy, edge: edge), y = GuardedFloats(count: s.count, edge: edge), dx = GuardedFloats(
            count: s.count, edge: edge)
        let mean = GuardedFloats(count: s.batch * s.groups, edge: edge), rstd = GuardedFloats(
            count: s.batch * s.groups, edge: edge)
        let dweight = GuardedFloats(uniform(s.C, seed: 91), edge: edge), dbias = GuardedFloats(
            uniform(s.C, seed: 92), edge: edge)
        hssl_group_norm(
            s.batch, s.positions, s.C, s.groups, x.pointer, weight.pointer, bias.pointer, epsilon, y.pointer,
            mean.pointer, rstd.pointer)
        hssl_group_norm_backward(
            s.batch, s.positions, s.C, s.groups, x.pointer, weight.pointer, mean.pointer, rstd.pointer, dy.pointer,
            dx.pointer, dweight.pointer, dbias.pointer)
        return Result(
            y: y.values, mean: mean.values, rstd: rstd.values, dx: dx.values, dweight: dweight.values,
            dbias: dbias.values)
    }

    private func exact(_ s: Shape, x: [Float], weight: [Float], bias: [Float], dy: [Float]) -> Result {
        var y = [Double](repeating: 0, count: s.count), dx = y
        var dweight = uniform(s.C, seed: 91).map(Double.init), dbias = uniform(s.C, seed: 92).map(Double.init)
        var means = [Float](), rstds = [Float]()
        let elements = Double(s.positions * s.width)
        for b in 0..<s.batch {
            for g in 0..<s.groups {
                var places = [(at: Int, c: Int)]()
                for p in 0..<s.positions {
                    for c in g * s.width..<(g + 1) * s.width { places.append(((b * s.positions + p) * s.C + c, c)) }
                }
                let mean = places.reduce(0.0) { $0 + Double(x[$1.at]) } / elements
                let variance =
                    places.reduce(0.0) { $0 + (Double(x[$1.at]) - mean) * (Double(x[$1.at]) - mean) } / elements
                let rstd = 1 / (variance + Double(epsilon)).squareRoot()
                var sum = 0.0, projection = 0.0
                for (at, c) in places {
                    let normal = (Double(x[at]) - mean) * rstd, g = Double(dy[at]) * Double(weight[c])
                    y[at] = normal * Double(weight[c]) + Double(bias[c])
                    dweight[c] += Double(dy[at]) * normal
                    dbias[c] += Double(dy[at])
                    sum += g / elements
                    projection += g * normal / elements
                }
                for (at, c) in places {
                    let normal = (Double(x[at]) - mean) * rstd
                    dx[at] = rstd * (Double(dy[at]) * Double(weight[c]) - sum - normal * projection)
                }
                means.append(Float(mean))
                rstds.append(Float(rstd))
            }
        }
        return Result(
            y: y.map(Float.init), mean: means, rstd: rstds, dx: dx.map(Float.init), dweight: dweight.map(Float.init),
            dbias: dbias.map(Float.init))
    }

    private func check(_ shapes: [Shape], offset: Float = 0, _ bound: Double = 2e-6) {
        let names = ["y", "mean", "rstd", "dx", "dweight", "dbias"]
        for (index, s) in shapes.enumerated() {
            let x = uniform(s.count, seed: index).map { $0 + offset }, dy = uniform(s.count, seed: index + 1)
            let weight = uniform(s.C, seed: index + 2), bias = uniform(s.C, seed: index + 3)
            let expected = exact(s, x: x, weight: weight, bias: bias, dy: dy).all
            forEveryRow(of: "norm") { isa in
                let edge: GuardedFloats.Edge = index % 2 == 0 ? .end : .start
                let actual = groupNorm(s, x: x, weight: weight, bias: bias, dy: dy, edge: edge).all
                for output in names.indices {
                    // A few nearly equal elements have a large rstd, which magnifies the rounding of the mean.
                    let bound = names[output] == "dx" && s.positions * s.width < 4 ? 1e-4 : bound
                    // A mean near zero is as exact as its elements, which are near one.
                    assertClose(
                        actual[output], expected[output], bound, floor: names[output] == "mean" ? 0.1 : 1e-3,
                        "\(names[output]) \(s), row \(isa.rawValue)")
                }
            }
        }
    }

    func testEveryChannelCount() {
        check((1...70).flatMap { C in
            [1, C, C % 2 == 0 ? C / 2 : 1].map { Shape(batch: 1 + C % 2, positions: 3 + C % 37, C: C, groups: $0) }
        })
    }

    func testModelShapesAndWideGroups() {
        check([
            Shape(batch: 2, positions: 196, C: 64, groups: 32), Shape(batch: 1, positions: 49, C: 2048, groups: 32),
            Shape(batch: 1, positions: 33, C: 2048, groups: 1), Shape(batch: 2, positions: 5, C: 2600, groups: 1300),
            Shape(batch: 1, positions: 1, C: 6, groups: 2), Shape(batch: 1, positions: 70, C: 1030, groups: 2),
        ])
    }

    /// The variance is taken around the mean: a mean of hundreds of deviations costs only what rounds x itself.
    func testLargeMean() {
        check(
            [Shape(batch: 1, positions: 784, C: 24, groups: 4), Shape(batch: 1, positions: 784, C: 24, groups: 1)],
            offset: 100, 3e-5)
    }

    /// Sums are taken around a block's first position, which here is far from all others.
    func testFirstPositionsFarFromTheOthers() {
        let s = Shape(batch: 1, positions: 200, C: 20, groups: 5)
        var x = uniform(s.count, seed: 11)
        for position in stride(from: 0, to: s.positions, by: 32) {
            for c in 0..<s.C { x[position * s.C + c] = 3e3 + Float(c) }
        }
        let weight = uniform(s.C, seed: 12), bias = uniform(s.C, seed: 13), dy = uniform(s.count, seed: 14)
        let expected = exact(s, x: x, weight: weight, bias: bias, dy: dy)
        forEachRow(of: "norm") { isa in
            let actual = groupNorm(s, x: x, weight: weight, bias: bias, dy: dy)
            assertClose(actual.y, expected.y, 1e-5, floor: 1e-3, "y, row \(isa.rawValue)")
            assertClose(actual.rstd, expected.rstd, 1e-5, floor: 1e-6, "rstd, row \(isa.rawValue)")
        }
    }

    /// Codes are made of the result, so the forward may differ between rows in no bit.
    func testForwardHasTheSameBitsOnEveryRow() {
        for (index, s) in [
            Shape(batch: 2, positions: 300, C: 37, groups: 1), Shape(batch: 1, positions: 49, C: 96, groups: 32),
            Shape(batch: 1, positions: 1000, C: 8, groups: 4)].enumerated() {
            let x = uniform(s.count, seed: index), dy = uniform(s.count, seed: index + 1)
            let weight = uniform(s.C, seed: index + 2), bias = uniform(s.C, seed: index + 3)
            let expected = withScalarRow { groupNorm(s, x: x, weight: weight, bias: bias, dy: dy) }
            forEachRow(of: "norm") { isa in
                let actual = groupNorm(s, x: x, weight: weight, bias: bias, dy: dy)
                assertSameBits(actual.y, expected.y, "\(s), row \(isa.rawValue)")
                assertSameBits(actual.mean, expected.mean, "\(s), row \(isa.rawValue)")
                assertSameBits(actual.rstd, expected.rstd, "\(s), row \(isa.rawValue)")
            }
        }
    }

    func testOneElementIsTheBias() {
        forEveryRow(of: "norm") { _ in
            let result = groupNorm(
                Shape(batch: 2, positions: 1, C: 3, groups: 3), x: [1, -1e20, 3, 4, 5, 6], weight: [0.7, 2, 3],
                bias: [0.1, 0.2, 0.3], dy: [1, 2, 3, 0.3, 5, 6])
            XCTAssertEqual(result.y, [0.1, 0.2, 0.3, 0.1, 0.2, 0.3])
            XCTAssertEqual(result.dx, [Float](repeating: 0, count: 6))
        }
    }

    func testOptionalOutputsAndInPlace() {
        let s = Shape(batch: 3, positions: 35, C: 37, groups: 1)
        let input =
            uniform(s.count, seed: 5), weight = uniform(s.C, seed: 6), bias = uniform(s.C, seed: 7),
            dy = uniform(s.count, seed: 8)
        forEveryRow(of: "norm") { _ in
            let full = groupNorm(s, x: input, weight: weight, bias: bias, dy: dy)
            var x = input
            x.withUnsafeMutableBufferPointer { buffer in
                guard let x = buffer.baseAddress else { return }
                hssl_group_norm(s.batch, s.positions, s.C, s.groups, x, weight, bias, epsilon, x, nil, nil)
            }
            assertSameBits(x, full.y, "in place")
            var dx = [Float](repeating: 0, count: s.count)
            hssl_group_norm_backward(
                s.batch, s.positions, s.C, s.groups, input, weight, full.mean, full.rstd, dy, &dx, nil, nil)
            assertSameBits(dx, full.dx, "without weight gradients")
        }
    }

    /// Many samples go through the backward in rounds.
    func testThreadsAndRoundsDoNotMatter() {
        for s in [
            Shape(batch: 70, positions: 9, C: 600, groups: 12), Shape(batch: 1, positions: 300, C: 200, groups: 8),
            Shape(batch: 3, positions: 400, C: 40, groups: 1)] {
            let x =
                uniform(s.count, seed: 1), dy = uniform(s.count, seed: 2), weight = uniform(s.C, seed: 3),
                bias = uniform(s.C, seed: 4)
            assertThreadsDoNotMatter("norm", counts: [2, 4]) {
                groupNorm(s, x: x, weight: weight, bias: bias, dy: dy).all
            }
            check([s])
        }
    }
}
