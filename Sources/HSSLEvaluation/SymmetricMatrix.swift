#if canImport(Glibc)
import Glibc
#endif

/// Eigenvalues and eigenvectors of symmetric matrices: Householder's reduction to tridiagonal form, then the QL method
/// with implicit shifts. Source: Wilkinson & Reinsch, "Handbook for Automatic Computation II", 1971 (`tred1`, `imtql1`
/// and `imtql2`).
package enum SymmetricMatrix {
    /// - Parameter matrix: [order, order], its lower triangle is read.
    /// - Returns: in no particular order; NaN throughout where the matrix is not finite.
    package static func eigenvalues(_ matrix: [Double], order: Int) -> [Double] {
        guard matrix.allSatisfy(\.isFinite) else { return [Double](repeating: .nan, count: order) }
        var (diagonal, beside, _) = tridiagonal(matrix, order: order)
        var none: [Double] = []
        diagonalize(&diagonal, &beside, &none, order: order)
        return diagonal
    }

    /// - Parameter matrix: [order, order], finite; its lower triangle is read.
    /// - Returns: eigenvalues in no particular order, and the unit vector of each: [order, order], a row a value.
    package static func eigenvectors(_ matrix: [Double], order n: Int) -> (values: [Double], vectors: [Double]) {
        var (diagonal, beside, reflections) = tridiagonal(matrix, order: n)
        var vectors = [Double](repeating: 0, count: n * n)
        for i in 0..<n { vectors[i * n + i] = 1 }
        diagonalize(&diagonal, &beside, &vectors, order: n)
        // A = H₁…H_m T H_m…H₁: the last reflection that was applied is undone first.
        vectors.withUnsafeMutableBufferPointer { z in
            for (v, h) in reflections.reversed() {
                for row in stride(from: 0, to: n * n, by: n) {
                    var product = 0.0
                    for i in v.indices { product += v[i] * z[row + i] }
                    for i in v.indices { z[row + i] -= product / h * v[i] }
                }
            }
        }
        return (diagonal, vectors)
    }

    /// Brings a tridiagonal matrix to its eigenvalues; `vectors`, rows that it starts from or none, turn with it.
    private static func diagonalize(
        _ diagonal: inout [Double], _ beside: inout [Double], _ vectors: inout [Double], order: Int
    ) {
        for l in 0..<order {
            // Convergence is cubic; 60 rounds are never needed by finite numbers.
            for _ in 0..<60 {
                let m = (l..<order - 1).first { m in
                    let scale = abs(diagonal[m]) + abs(diagonal[m + 1])
                    return abs(beside[m]) <= .ulpOfOne * scale
                } ?? order - 1
                if m == l { break }
                rotate(&diagonal, &beside, &vectors, from: m, to: l)
            }
        }
    }

    /// One QL step with an implicit shift over rows l … m.
    private static func rotate(
        _ d: inout [Double], _ e: inout [Double], _ vectors: inout [Double], from m: Int, to l: Int
    ) {
        let n = d.count
        var g = (d[l + 1] - d[l]) / (2 * e[l])
        var r = hypot(g, 1)
        g = d[m] - d[l] + e[l] / (g + (g < 0 ? -r : r))
        var (s, c, p) = (1.0, 1.0, 0.0)
        for i in stride(from: m - 1, through: l, by: -1) {
            let f = s * e[i], b = c * e[i]
            r = hypot(f, g)
            e[i + 1] = r
            if r == 0 {
                d[i + 1] -= p
                e[m] = 0
                return
            }
            (s, c) = (f / r, g / r)
            g = d[i + 1] - p
            r = (d[i] - g) * s + 2 * c * b
            p = s * r
            d[i + 1] = g + p
            g = c * r - b
            guard !vectors.isEmpty else { continue }
            vectors.withUnsafeMutableBufferPointer { z in
                for k in 0..<n {
                    let next = z[(i + 1) * n + k], own = z[i * n + k]
                    z[(i + 1) * n + k] = s * own + c * next
                    z[i * n + k] = c * own - s * next
                }
            }
        }
        d[l] -= p
        e[l] = g
        e[m] = 0
    }

    /// Diagonal, the elements below it (e[i] is at (i + 1, i), the last one 0), and the reflections I − v·vᵀ/h that led
    /// there, in their order; v has the first so many coordinates.
    private static func tridiagonal(
        _ matrix: [Double], order n: Int
    ) -> (diagonal: [Double], beside: [Double], reflections: [(v: [Double], h: Double)]) {
        var a = matrix, reflections: [(v: [Double], h: Double)] = []
        var e = [Double](repeating: 0, count: n)
        a.withUnsafeMutableBufferPointer { a in
            for k in stride(from: n - 1, to: 1, by: -1) {
                // Annihilates row k left of its neighbour.
                let scale = (0..<k).reduce(0.0) { $0 + abs(a[k * n + $1]) }
                guard scale > 0 else { continue }
                var v = (0..<k).map { a[k * n + $0] / scale }
                var h = v.reduce(0) { $0 + $1 * $1 }
                let g = v[k - 1] >= 0 ? -h.squareRoot() : h.squareRoot()
                e[k - 1] = scale * g
                h -= v[k - 1] * g
                v[k - 1] -= g
                // p = A·v/h; q = p − (vᵀp/2h)·v; A ← A − v·qᵀ − q·vᵀ.
                var p = [Double](repeating: 0, count: k)
                for i in 0..<k {
                    let row = i * n
                    for j in 0..<i {
                        p[i] += a[row + j] * v[j]
                        p[j] += a[row + j] * v[i]
                    }
                    p[i] += a[row + i] * v[i]
                }
                for i in 0..<k { p[i] /= h }
                let half = zip(v, p).reduce(0) { $0 + $1.0 * $1.1 } / (2 * h)
                for i in 0..<k { p[i] -= half * v[i] }
                for i in 0..<k { for j in 0...i { a[i * n + j] -= v[i] * p[j] + p[i] * v[j] } }
                reflections.append((v, h))
            }
            if n > 1 { e[0] = a[n] }
        }
        return ((0..<n).map { a[$0 * n + $0] }, e, reflections)
    }
}
