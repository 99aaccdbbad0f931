/// iBOT: DINO's loss over views, and the same loss over the patches that the student does not see.
///
/// loss = DINO's + mean over views of the mean over their masked patches of H(teacher's patch, student's patch).
/// Source: Zhou et al., "iBOT: image BERT pre-training with online tokenizer", ICLR 2022.
package struct IBOTSettings: PrototypeSettings {
    package var options: PrototypeOptions

    package init(_ options: PrototypeOptions) { self.options = options }

    package var name: String { "ibot" }
    package var learnsPatches: Bool { true }
    package var curves: [LossCurve] { DINOSettings.viewCurves + [LossCurve("patch", "patch")] }
}
