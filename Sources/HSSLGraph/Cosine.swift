/// Of two vectors; 1 for two that are zero, 0 where one overflows.
package func cosine(_ a: some Collection<Float>, _ b: some Collection<Float>) -> Double {
    var (ab, aa, bb) = (0.0, 0.0, 0.0)
    for (x, y) in zip(a, b) {
        ab += Double(x) * Double(y)
        aa += Double(x) * Double(x)
        bb += Double(y) * Double(y)
    }
    guard (aa * bb).isFinite, ab.isFinite else { return 0 }
    return aa == bb && aa == 0 ? 1 : ab / max((aa * bb).squareRoot(), .leastNormalMagnitude)
}
