import HSSLGraph
import HSSLModels

/// BYOL: a prediction is to point where the teacher's projection of the other view does; nothing is pushed apart.
///
/// loss = Σ over both directions of mean over images of 2 − 2·cos(prediction, projection).
/// Source: Grill et al., "Bootstrap your own latent", NeurIPS 2020.
package struct BYOLSettings: AgreementSettings {
    package var hidden: Int
    package var output: Int

    package init(hidden: Int, output: Int) { (self.hidden, self.output) = (hidden, output) }

    package var name: String { "byol" }

    package func projector(_ scope: ParameterScope, width: Int) -> BatchNormMLP {
        BatchNormMLP(scope, widths: [width, hidden, output], bias: true, lastNorm: false)
    }

    package func predictor(_ scope: ParameterScope) -> BatchNormMLP {
        BatchNormMLP(scope, widths: [output, hidden, output], bias: true, lastNorm: false)
    }

    package func agreement(of predictions: Tensor, with targets: Tensor, weight: Float) -> Agreement {
        let images = Double(predictions.rows)
        let gradient = Cosine.gradient(towards: targets, weight: -2 * weight / Float(images))
        let cosines = Cosine.sum(predictions, targets)
        return Agreement(loss: 2 - 2 * cosines / images, seed: (predictions, gradient))
    }
}

/// Cosines of unit vectors: linear in the student's, so that the loss needs no operation of its own.
enum Cosine {
    /// Σ over rows.
    static func sum(_ a: Tensor, _ b: Tensor) -> Double {
        var sum = 0.0
        for i in 0..<a.count { sum += Double(a.values[i]) * Double(b.values[i]) }
        return sum
    }

    /// weight · target: the gradient of weight · Σ cosines.
    static func gradient(towards targets: Tensor, weight: Float) -> Buffer {
        let buffer = targets.tape.pool.floats(targets.count)
        for i in 0..<targets.count { buffer.floats[i] = weight * targets.values[i] }
        return buffer
    }
}
