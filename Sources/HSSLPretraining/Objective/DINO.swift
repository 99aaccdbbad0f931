/// DINO: what the student makes of one view of an image is to match what the teacher makes of the other, as a
/// distribution over prototypes.
///
/// loss = mean over pairs of different views of H(softmax((teacher − centre)/τ_t), softmax(student/τ_s)).
/// Source: Caron et al., "Emerging properties in self-supervised vision transformers", ICCV 2021.
package struct DINOSettings: PrototypeSettings {
    package var options: PrototypeOptions

    package init(_ options: PrototypeOptions) { self.options = options }

    package var name: String { "dino" }
    package var learnsPatches: Bool { false }
    package var curves: [LossCurve] { Self.viewCurves }

    static let viewCurves = [LossCurve("cls_base", "CLS base"), LossCurve("cls_auxiliary", "CLS auxiliary")]
}
