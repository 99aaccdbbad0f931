import CSupport

/// What consecutive rows of a student learn from: constant distributions over K prototypes.
package enum PrototypeTargets {
    /// Row i learns from row index[i] of stored distributions [Q, K].
    case distributions(Tensor, index: [Int32])
    /// Row i learns from softmax((y[i]·Vᵀ − center)/temperature): bottleneck vectors y [rows, d] of a teacher, its
    /// prototypes V [K, d], center [K].
    case projections(Tensor, prototypes: Tensor, center: [Float], temperature: Float)

    package var count: Int {
        switch self {
        case .distributions(_, let index): index.count
        case .projections(let rows, _, _, _): rows.rows
        }
    }
}

/// The rows of one projection, and what they learn from.
package struct PrototypeRows {
    /// Bottleneck vectors x [R, d].
    package let rows: Tensor
    /// Of consecutive parts of the rows.
    package let targets: [PrototypeTargets]
    /// [R]
    package let weights: [Float]

    package init(rows: Tensor, targets: [PrototypeTargets], weights: [Float]) {
        (self.rows, self.targets, self.weights) = (rows, targets, weights)
    }
}

extension Tensor {
    /// Σ_r weight[r]·H(q[r], softmax(x[r]·Wᵀ/T)) over the rows of all streams; the receiver is W [K, d], the
    /// prototypes.
    ///
    /// Logits and computed targets exist for one tile of rows at a time. The gradients are computed in the same walk,
    /// while a tile is there: the loss is one number, so its gradient is what is kept here times that number's, and a
    /// second walk would repeat both products. What is kept (dx [R, d], dW [K, d]) is smaller than the logits [R, K].
    ///
    /// - Parameters:
    ///   - rowLosses: receives H of every row of every stream, before weighting.
    ///   - tileElements: logits of a tile; its rows follow from K alone.
    /// - Returns: the weighted sum, summed in float64, as [1].
    package func prototypeCrossEntropy(
        of streams: [PrototypeRows], temperature: Float, rowLosses: inout [[Float]], tileElements: Int = 1 << 20
    ) -> Tensor {
        precondition(
            shape.count == 2
                && streams.allSatisfy { stream in
                    stream.rows.width == width && stream.weights.count == stream.rows.rows
                        && stream.targets.reduce(0) { $0 + $1.count } == stream.rows.rows
                },
            "prototypeCrossEntropy: \(shape) and "
            + "\(streams.map { ($0.rows.shape, $0.weights.count, $0.targets.map(\.count)) })"
        )
        var losses: [[Float]] = streams.map { _ in [] }
        defer { rowLosses = losses }
        return tape.record(.prototypeCrossEntropy, streams.map(\.rows) + [self], shape: [1]) { y, keeps in
            let wanted = streams.flatMap(\.targets).map(\.count).max() ?? 0
            let tile = PrototypeTile(
                self, temperature: temperature, rows: max(1, min(wanted, tileElements / shape[0])),
                keepsGradients: keeps)
            var total = 0.0
            var saved: [Saved] = []
            for (place, stream) in streams.enumerated() {
                let dx = keeps && stream.rows.requiresGradient ? tape.pool.floats(stream.rows.count) : nil
                losses[place] = tile.walk(stream, dx: dx)
                for (loss, weight) in zip(losses[place], stream.weights) { total += Double(loss) * Double(weight) }
                saved.append(dx.map { .floats($0) } ?? .nothing)
            }
            y[0] = Float(total)
            return keeps ? saved + [tile.weightGradient.map { .floats($0) } ?? .nothing] : []
        }
    }
}

/// The memory of a tile and what all tiles share.
private struct PrototypeTile {
    let prototypes: Tensor
    let packed: PackedWeight
    let inverseTemperature: Float
    let rows: Int
    let keepsGradients: Bool
    /// z, then dz [rows, K]; and q [rows, K].
    let logits, targets: Buffer
    /// [rows] each
    let losses, logSumExp: Buffer
    /// For the products of the gradients.
    let workspace: Buffer
    /// dW [K, d], summed tile by tile; nil where W is frozen.
    let weightGradient: Buffer?

    private var count: Int { prototypes.shape[0] }
    private var width: Int { prototypes.width }
    private var pool: BufferPool { prototypes.tape.pool }

    init(_ prototypes: Tensor, temperature: Float, rows: Int, keepsGradients: Bool) {
        let (count, width, pool) = (prototypes.shape[0], prototypes.width, prototypes.tape.pool)
        self.prototypes = prototypes
        self.rows = rows
        self.keepsGradients = keepsGradients
        packed = prototypes.packed(.float32Forward)
        inverseTemperature = 1 / temperature
        (logits, targets) = (pool.floats(rows * count), pool.floats(rows * count))
        (losses, logSumExp) = (pool.floats(rows), pool.floats(rows))
        let sizes = [
            hssl_gemm_f32_unpacked_workspace_size(rows, width, count),
            hssl_gemm_f32_unpacked_workspace_size(count, width, rows)]
        workspace = pool.allocate(byteCount: sizes.reduce(1, max))
        weightGradient = keepsGradients && prototypes.requiresGradient ? pool.zeros(count * width) : nil
    }

    /// The rows' losses; their gradients go to `dx` and `weightGradient`.
    func walk(_ stream: PrototypeRows, dx: Buffer?) -> [Float] {
        var result: [Float] = []
        result.reserveCapacity(stream.weights.count)
        stream.weights.withUnsafeBufferPointer { weights in
            guard let weights = weights.baseAddress else { return }
            for part in stream.targets {
                let teacher = part.packedPrototypes
                for first in stride(from: 0, to: part.count, by: rows) {
                    let n = min(rows, part.count - first), row = result.count
                    part.write(first..<first + n, packed: teacher, into: targets.floats)
                    let x = stream.rows.values + row * width
                    hssl_gemm_f32(n, count, width, x, width, 1, packed.packed.pointer, logits.floats, count, false, nil)
                    hssl_soft_cross_entropy(
                        n, count, targets.floats, logits.floats, inverseTemperature, losses.floats, logSumExp.floats)
                    result.append(contentsOf: UnsafeBufferPointer(start: losses.floats, count: n))
                    if keepsGradients { differentiate(n, x, weights + row, dx: dx.map { $0.floats + row * width }) }
                }
            }
        }
        return result
    }

    /// dx = dz·W, dW += dzᵀ·x.
    private func differentiate(
        _ n: Int, _ x: UnsafePointer<Float>, _ weights: UnsafePointer<Float>, dx: UnsafeMutablePointer<Float>?
    ) {
        let dz = logits.floats
        hssl_soft_cross_entropy_backward(
            n, count, targets.floats, dz, inverseTemperature, logSumExp.floats, weights, dz)
        if let dx {
            hssl_gemm_f32_unpacked(
                n, width, count, dz, count, 1, prototypes.values, width, 1, dx, width, false, nil, workspace.pointer)
        }
        if let weightGradient {
            hssl_gemm_f32_unpacked(
                count, width, n, dz, 1, count, x, width, 1, weightGradient.floats, width, true, nil, workspace.pointer)
        }
    }
}

extension PrototypeTargets {
    /// Once for all tiles.
    fileprivate var packedPrototypes: PackedWeight? {
        if case .projections(_, let prototypes, _, _) = self { prototypes.packed(.float32Forward) } else { nil }
    }

    /// The distributions of some rows [part.count, K].
    fileprivate func write(_ part: Range<Int>, packed: PackedWeight?, into q: UnsafeMutablePointer<Float>) {
        switch self {
        case .distributions(let stored, let index):
            index.withUnsafeBufferPointer { index in
                guard let start = index.baseAddress else { return }
                hssl_gather_rows(part.count, stored.width, start + part.lowerBound, stored.values, q)
            }
        case .projections(let rows, let prototypes, let center, let temperature):
            guard let packed else {
                preconditionFailure("the prototypes of projected targets are packed before the walk")
            }
            let (count, width) = (prototypes.shape[0], prototypes.width)
            hssl_gemm_f32(
                part.count, count, width, rows.values + part.lowerBound * width, width, 1, packed.packed.pointer, q,
                count, false, nil)
            hssl_softmax(part.count, count, q, center, 1 / temperature, q)
        }
    }
}
